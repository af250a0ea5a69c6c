-- Let pg_cron run maintenance every hour. Install pg_cron first (Integrations, Cron); without it this changes nothing
-- and says so: then the worker runs maintenance.
select private.schedule_maintenance();
