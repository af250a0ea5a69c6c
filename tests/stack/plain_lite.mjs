// Supabase Lite as it comes, without the front's own protections, connected as the front is: what the database's
// privileges alone hold. Reads its configuration from stdin, sends the requests in it, prints the answers as JSON.

import { App } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";

console.log = console.info = console.warn = console.error;
let text = "";
for await (const chunk of process.stdin) text += chunk;
const { database, keys, requests } = JSON.parse(text);

const connection = createPostgresConnection({
  url: "",
  postgresOptions: {
    ...database, onnotice: () => {}, connection: { search_path: "public, extensions" },
  },
});
const app = new App({
  connection,
  auth: { enabled: true, jwt_secret: keys.jwt, publishable_key: keys.publishable, secret_key: keys.secret },
  api: { enabled: true, schemas: ["public"] },
  db: { driver: "postgres", migrations: { enabled: false } },
  storage: { enabled: false },
});
await app.init();
const answers = [];
for (const { path, headers } of requests) {
  const answer = await app.fetch(new Request(`http://localhost${path}`, { headers }));
  answers.push({ status: answer.status, body: await answer.text() });
}
process.stdout.write(JSON.stringify(answers));
await connection.close();
