-- Data API: what the embedded Data API's login may do, and no more.
--
-- Supabase Lite serves both Auth and the Data API over one login. If that were a superuser, two of its habits would be
-- holes: it doesn't switch roles at all as long as no table has row-level security, and it grants all privileges on
-- all tables of a schema to the API roles as soon as one has. So it is `supabase_auth_admin`: it owns auth, may become
-- the API roles, and reads the catalog of everything, but rows of others only where row-level security is off.
-- Its own GRANTs on our tables are then refused, because it has no grant option on any of them.

grant anon, authenticated, service_role to supabase_auth_admin with inherit false, set true, admin false;

-- information_schema shows only what one has a privilege on, and that is where it reads the schema from.
grant pg_read_all_data to supabase_auth_admin with inherit true, set false, admin false;
