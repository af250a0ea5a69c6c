// The embedded stack's HTTP origin.
//
// Supabase Lite's App serves /rest/v1 and /auth/v1 inside this process. Around it, this file does what an API gateway
// does in a real deployment: it answers CORS preflights, refuses requests without a valid key or with a bad token,
// passes /functions/v1 and /realtime/v1 to local ports, and keeps the schema cache fresh.
//
// How it is driven: the first line on stdin is the configuration, as JSON, because arguments and the environment can
// be read by others. Later lines are commands. Each line on stdout is an event, as JSON; everything else goes to
// stderr. When stdin closes it ends: it never outlives its supervisor.
//
// modes: "prepare" makes the Auth schema and ends; "serve" is the origin; "studio" is Lite's own Studio with admin
// rights, for whoever holds the token that its URL carries.

import { AsyncLocalStorage } from "node:async_hooks";
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

// Lite and its parts log with console.log; stdout is for events alone. What the database refuses is the client's
// affair, which the answer tells it: one line of log, not a stack trace each time.
const logError = console.error.bind(console);
console.error = (...parts) => logError(...parts.map((part) =>
  (part instanceof Error && typeof part.code === "string" ? `${part.name}: ${part.code} ${part.message}` : part)));
console.log = console.info = console.debug = console.error;

const { getRequestListener } = await import("@hono/node-server");
const { App } = await import("@supabase/lite");
const { createPostgresConnection } = await import("@supabase/lite/postgres");
const { sql } = await import("kysely");
const { default: postgres } = await import("postgres");

const API_ROLES = new Set(["anon", "authenticated", "service_role"]);
// Lite's limit on a request body would be memory; a batch of 1000 items with vectors is about 30 MB.
const MAX_BODY_BYTES = 64 * 1024 * 1024;
const MAX_JSON_LEVELS = 1000;
const MAX_HEADER_BYTES = 32 * 1024;
const MAX_CONTEXT_HEADER_CHARS = 256;
const CONTEXT_HEADERS = ["x-session-id", "x-workspace-id"];
const ALLOWED_HEADERS = [
  "accept", "accept-profile", "apikey", "authorization", "cache-control", "content-profile", "content-type",
  "last-event-id", "mcp-protocol-version", "mcp-session-id", "prefer", "range", "range-unit", "x-client-info", "x-region",
  "x-request-id", "x-retry-count", "x-session-id", "x-supabase-api-version", "x-workspace-id",
];
const EXPOSED_HEADERS = [
  "content-location", "content-range", "mcp-session-id", "preference-applied", "retry-after", "sb-error-code", "x-request-id",
];
const METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

function emit(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

function fatal(message) {
  emit("fatal", { message });
  // Let the event out before the process ends.
  process.stdout.write("", () => process.exit(1));
}

// ---------------------------------------------------------------------------------------------------------------------
// The database

/** What of the current HTTP request the database should see; for table requests too, which Lite doesn't tell. */
const currentRequest = new AsyncLocalStorage();

/**
 * Lite turns what is no string among a function's JSON arguments into text, and the driver would encode that text
 * once more: the database would store a string. So the front does it before Lite, and marks what is JSON already.
 */
const ENCODED_JSON = `json-${randomBytes(16).toString("hex")}:`;

function serializeJson(value) {
  if (typeof value === "string" && value.startsWith(ENCODED_JSON)) return value.slice(ENCODED_JSON.length);
  return JSON.stringify(value);
}

class Unreadable extends Error {
  constructor(message, { status = 400, code = "PGRST102" } = {}) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Return a JSON body as text; what nobody could store, or would store as something else, is refused. */
function readJson(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Unreadable("the body is not UTF-8");
  }
  if (isDeeper(text, MAX_JSON_LEVELS)) {
    throw new Unreadable(`the JSON is nested deeper than ${MAX_JSON_LEVELS} levels`, { status: 413, code: "54001" });
  }
  // Escapes alone can say half a character: whole ones are written anew as they are, and halves as escapes again.
  if (/\\u[dD][89a-fA-F]/.test(text)) {
    let written = "";
    try {
      written = JSON.stringify(JSON.parse(text));
    } catch {
      return text;  // Lite says what is wrong with it
    }
    if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(written)) {
      throw new Unreadable("the body holds half a character: a surrogate without the other");
    }
  }
  return text;
}

/** Tell whether JSON is nested deeper than so many levels: every level takes from the stack of whoever writes it. */
function isDeeper(text, levels) {
  if (text.length <= 2 * levels) return false;
  let depth = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (inString) {
      if (code === 92) at += 1;  // a backslash, and what it escapes
      else if (code === 34) inString = false;
    } else if (code === 34) {
      inString = true;
    } else if (code === 91 || code === 123) {
      depth += 1;
      if (depth > levels) return true;
    } else if (code === 93 || code === 125) {
      depth -= 1;
    }
  }
  return false;
}

/** Return a request whose JSON has been looked at: a call of a function with its JSON arguments encoded and marked. */
async function encodeJsonArguments(request, connection) {
  const hasBody = !["GET", "HEAD"].includes(request.method);
  if (!hasBody || !(request.headers.get("content-type") ?? "").includes("json")) return request;
  const text = readJson(await request.arrayBuffer());
  const rebuilt = (body) => new Request(request.url, { method: request.method, headers: request.headers, body });
  const name = request.method === "POST" && /^\/rest\/v1\/rpc\/([^/]+)$/.exec(new URL(request.url).pathname)?.[1];
  if (!name) return rebuilt(text);
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    return rebuilt(text);  // Lite says what is wrong with it
  }
  if (body === null || typeof body !== "object" || Array.isArray(body)) return rebuilt(text);
  // Written anew, half a character is an escape; whole ones aren't.
  if (/\\u[dD][89a-fA-F]/.test(text) && /(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(JSON.stringify(body))) {
    throw new Unreadable("the body holds half a character: a surrogate without the other");
  }
  const { functions = [] } = await connection.introspect({ useCache: true });
  const called = functions.filter((one) => one.name === decodeURIComponent(name));
  const isJson = (argument) => called.some((one) =>
    ["json", "jsonb", "pg_catalog.json", "pg_catalog.jsonb"].includes(one.arg_types[one.arg_names.indexOf(argument)]));
  for (const [argument, value] of Object.entries(body)) {
    if (value !== null && typeof value !== "string" && isJson(argument)) {
      body[argument] = ENCODED_JSON + JSON.stringify(value);
    }
  }
  return rebuilt(JSON.stringify(body));
}

function connectionOptions(database) {
  return {
    host: database.host,
    port: database.port,
    database: database.name,
    username: database.user,
    password: database.password,
    connect_timeout: 10,
    onnotice: () => {},
    types: {
      json: { to: 114, from: [114], serialize: serializeJson, parse: JSON.parse },
      jsonb: { to: 3802, from: [3802], serialize: serializeJson, parse: JSON.parse },
      // As PostgREST writes it; clients that expect ISO 8601 stumble over PostgreSQL's own form.
      timestamptz: {
        to: 1184, from: [1184], serialize: (value) => value,
        parse: (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00"),
      },
    },
  };
}

/**
 * Open Lite's connection with the request context set in one statement instead of seven, and without its own GRANTs.
 *
 * The three methods replaced here are not documented: the version of Lite is pinned, and a version without them is
 * refused rather than run half-protected.
 */
function openConnection(database) {
  const open = () => createPostgresConnection({
    url: "",
    postgresOptions: { ...connectionOptions(database), max: 20, idle_timeout: 300 },
  });
  const connection = open();
  for (const method of ["ensureRlsContext", "applyJwtSessionContext", "applyRpcRequestGucs", "introspect"]) {
    if (typeof connection[method] !== "function") {
      throw new Error(`this version of @supabase/lite has no ${method}(); the front needs the pinned version`);
    }
  }
  // Its configuration is handed out by Lite's introspection routes; the password must not be in it.
  connection.config.postgresOptions = {};

  let roleSettings = new Map();

  // Always switch roles. Lite would only do so once a table has row-level security, and would then grant everything.
  connection.ensureRlsContext = async () => true;

  connection.applyJwtSessionContext = async (transaction, vars) => {
    const claims = vars.auth?.jwt ?? null;
    const role = vars.auth?.role || "anon";
    if (!API_ROLES.has(role)) throw new Error(`role ${JSON.stringify(role)} is not an API role`);
    const request = currentRequest.getStore() ?? { headers: {}, method: "", path: "" };
    const settings = roleSettings.get(role) ?? [];
    await sql`select ${sql.join([
      ["request.jwt.claims", JSON.stringify(claims ?? { role })],
      ["request.jwt.claim.sub", String(vars.auth?.uid ?? "")],
      ["request.jwt.claim.role", role],
      ["request.headers", JSON.stringify(request.headers)],
      ["request.method", request.method],
      ["request.path", request.path],
      ["response.status", ""],
      ["response.headers", ""],
      // As PostgREST: the exposed schema, then its extra search path.
      ["search_path", '"public", "extensions"'],
      ...settings,
      ["role", role],
    ].map(([name, value]) => sql`set_config(${name}, ${value}, true)`))}`.execute(transaction);
  };
  // All of it is set already.
  connection.applyRpcRequestGucs = async () => {};

  // One introspection at a time, never a stale one kept, and an unreachable database is not an empty schema.
  const introspect = connection.introspect.bind(connection);
  const forget = connection.clearSchemaCache.bind(connection);
  let generation = 0;
  let running = null;
  const introspectOnce = async () => {
    for (;;) {
      const before = generation;
      await forget();
      const schema = await introspect({ useCache: false });
      if (schema.functions === undefined) throw new Unavailable("the database can't be reached");
      roleSettings = await readRoleSettings(connection);
      if (generation === before) return schema;
    }
  };
  connection.introspect = (options) => {
    if (options?.useCache && connection.introspection !== undefined && running === null) {
      return Promise.resolve(connection.introspection);
    }
    if (running === null) {
      const mine = introspectOnce().finally(() => { if (running === mine) running = null; });
      running = mine;
    }
    return running;
  };
  connection.clearSchemaCache = async () => {
    generation += 1;
    await forget();
  };

  // postgres.js doesn't fail every query whose connection was lost: some wait for ever, and keep their place in the
  // pool. So a loss gives the App a new pool, and whatever still waits on the old one is told to try again.
  connection.waiting = new Set();
  connection.renew = () => {
    const { driver } = connection;
    const fresh = open();
    connection.driver = fresh.driver;
    connection.kysely = fresh.kysely;
    driver.end({ timeout: GRACE_SECONDS }).catch(() => {});
    const late = [...connection.waiting];
    setTimeout(() => { for (const giveUp of late) giveUp(); }, GRACE_SECONDS * 1000).unref();
    // One that waits on the old pool may wait for ever, and everybody with it.
    running = null;
    return connection.clearSchemaCache();
  };
  return connection;
}

// How long what is under way may still take when the database has gone.
const GRACE_SECONDS = 1;
// Every statement has a timeout of 8 seconds or less: what takes this long is lost.
const REQUEST_SECONDS = 25;

class Unavailable extends Error {}

// What postgres.js and the server say when there is no connection, or no longer.
const CONNECTION_LOST = new RegExp([
  "ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOENT", "CONNECT_TIMEOUT", "CONNECTION_(CLOSED|ENDED|DESTROYED)",
  "database system is (starting up|shutting down|in recovery mode|not yet accepting)",
  "terminating connection", "server closed the connection",
].join("|"));

// SQLSTATEs that Lite hides behind its own code "SUP", and PostgREST passes on.
const SQLSTATES = [
  ["57014", 500, /canceling statement due to (statement timeout|user request)/],
  ["55P03", 500, /canceling statement due to lock timeout|could not obtain lock/],
  ["40P01", 500, /deadlock detected/],
  ["40001", 500, /could not serialize access/],
  ["23514", 400, /violates check constraint/],
  ["23502", 400, /violates not-null constraint/],
  ["23505", 409, /violates unique constraint/],
  ["23503", 409, /violates foreign key constraint/],
  ["42501", 403, /permission denied for|violates row-level security policy/],
  ["22P02", 400, /invalid input (syntax|value) for/],
  ["22007", 400, /invalid input syntax for type (timestamp|date|time|interval)/],
  ["22003", 400, /out of range/],
  ["22001", 400, /value too long for type/],
  ["22021", 400, /invalid byte sequence for encoding/],
  ["22P05", 400, /unsupported Unicode escape sequence/],
  ["54001", 413, /stack depth limit exceeded/],
];

/** Return an error's body and status with the SQLSTATE told, where its message gives it away. */
function withSqlState(body, status) {
  let parsed;
  try {
    parsed = JSON.parse(body);
  } catch {
    return [body, status];
  }
  const found = parsed?.code === "SUP" && SQLSTATES.find(([, , pattern]) => pattern.test(parsed.message));
  if (!found) return [body, status];
  return [JSON.stringify({ ...parsed, code: found[0], message: parsed.message.replace(/^PostgresError: /, "") }), found[1]];
}

function unavailable() {
  return new Response(
    JSON.stringify({
      code: "PGRST001", message: "the database can't be reached just now; try again", details: null, hint: null,
    }),
    { status: 503, headers: { "content-type": "application/json; charset=utf-8", "retry-after": "1", ...corsHeaders() } },
  );
}

function refusal(status, code, message) {
  return new Response(
    JSON.stringify({ code, message, details: null, hint: null }),
    { status, headers: { "content-type": "application/json; charset=utf-8", ...corsHeaders() } },
  );
}

/** Read what PostgREST applies to each request: the settings of its role, timeouts above all. */
async function readRoleSettings(connection) {
  const { rows } = await sql`
    select r.rolname as role, s.setconfig as settings
    from pg_catalog.pg_roles r
    join pg_catalog.pg_db_role_setting s on s.setrole = r.oid and s.setdatabase = 0
    where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')`.execute(connection.kysely);
  const byRole = new Map(rows.map(({ role, settings }) => [role, settings.map((setting) => {
    const at = setting.indexOf("=");
    return [setting.slice(0, at), setting.slice(at + 1)];
  })]));
  const shared = (byRole.get("authenticator") ?? []).filter(([name]) => name.endsWith("_timeout"));
  return new Map([...API_ROLES].map((role) => {
    const own = byRole.get(role) ?? [];
    return [role, [...shared.filter(([name]) => !own.some(([other]) => other === name)), ...own]];
  }));
}

/** Keep a LISTEN on the channel `pgrst` for as long as the process lives, through restarts of the database. */
function watchSchema(database, connection) {
  let returning = false;
  const listen = (delay) => {
    let ended = false;
    let listening = false;
    const again = (client) => {
      if (ended) return;
      ended = true;
      client.end({ timeout: 0 }).catch(() => {});
      // The database has closed this connection, and so most likely all.
      if (listening) connection.renew();
      setTimeout(() => listen(Math.min(delay * 2, 2000)), delay).unref();
    };
    const client = postgres({
      ...connectionOptions(database),
      max: 1,
      idle_timeout: null,
      max_lifetime: null,
      fetch_types: false,
      onclose: () => again(client),
      onnotify: () => { connection.clearSchemaCache(); },
    });
    client`listen pgrst`.then(
      // Whatever was announced while nobody listened is unknown.
      () => {
        listening = true;
        delay = 100;
        // While the database was starting up, the pool may have lost queries again.
        if (returning) connection.renew();
        else connection.clearSchemaCache();
        returning = true;
      },
      () => again(client),
    );
  };
  listen(100);
}

// ---------------------------------------------------------------------------------------------------------------------
// Keys and tokens

function same(left, right) {
  const a = Buffer.from(left);
  const b = Buffer.from(right);
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Tell whether a token's signature is of this secret. */
function isSignedWith(parts, secret) {
  return same(createHmac("sha256", secret).update(`${parts[0]}.${parts[1]}`).digest("base64url"), parts[2]);
}

/** Return a token that Lite, which knows one secret, verifies: the same, or signed anew where an old secret signed it. */
function signedForLite(token, config) {
  const parts = token.split(".");
  if (isSignedWith(parts, config.jwtSecret)) return token;
  const header = Buffer.from(JSON.stringify({ alg: "HS256", typ: "JWT" })).toString("base64url");
  const signature = createHmac("sha256", config.jwtSecret).update(`${header}.${parts[1]}`).digest("base64url");
  return `${header}.${parts[1]}.${signature}`;
}

/** Change a header of a request, for those who read it parsed and for those who read it raw. */
function replaceHeader(request, name, value) {
  request.headers[name] = value;
  const { rawHeaders } = request;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i].toLowerCase() === name) rawHeaders[i + 1] = value;
  }
}

/** Return what a token may be signed with now. */
function acceptedSecrets(config) {
  const now = Date.now() / 1000;
  const retired = (config.retiredSecrets ?? []).filter((one) => one.until > now);
  return [config.jwtSecret, ...retired.map((one) => one.secret)];
}

/** Say why a bearer token is no good, or null. Lite verifies it again; here its role is limited as well. */
function tokenProblem(token, secrets) {
  const parts = token.split(".");
  if (parts.length !== 3 || parts.some((part) => part === "")) return ["PGRST301", "Expected 3 parts in JWT"];
  let header;
  let claims;
  try {
    header = JSON.parse(Buffer.from(parts[0], "base64url").toString("utf8"));
    claims = JSON.parse(Buffer.from(parts[1], "base64url").toString("utf8"));
  } catch {
    return ["PGRST301", "JWT cryptographic operation failed"];
  }
  if (header?.alg !== "HS256") return ["PGRST301", "No suitable key or wrong key type"];
  if (!secrets.some((secret) => isSignedWith(parts, secret))) return ["PGRST301", "JWT cryptographic operation failed"];
  const now = Date.now() / 1000;
  if (typeof claims?.exp === "number" && claims.exp <= now) return ["PGRST303", "JWT expired"];
  if (typeof claims?.nbf === "number" && claims.nbf > now + 30) return ["PGRST303", "JWT not yet valid"];
  if (!API_ROLES.has(claims?.role)) return ["PGRST301", "JWT role is not one of anon, authenticated, service_role"];
  return null;
}

// ---------------------------------------------------------------------------------------------------------------------
// HTTP

function corsHeaders() {
  return {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": EXPOSED_HEADERS.join(", "),
  };
}

function send(response, status, body, headers = {}) {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(text),
    ...corsHeaders(),
    ...headers,
  });
  response.end(text);
}

function refuse(response, status, code, message, hint = null, headers = {}) {
  send(response, status, { code, message, details: null, hint }, headers);
}

function preflight(request, response) {
  const asked = String(request.headers["access-control-request-headers"] ?? "")
    .split(",").map((name) => name.trim().toLowerCase()).filter((name) => /^[a-z0-9-]+$/.test(name));
  response.writeHead(204, {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": METHODS,
    "access-control-allow-headers": [...new Set([...ALLOWED_HEADERS, ...asked])].join(", "),
    "access-control-max-age": "86400",
    vary: "Access-Control-Request-Headers",
  });
  response.end();
}

/** Pass a request to a local service, body and answer streamed. */
function proxy(request, response, port, target) {
  const headers = { ...request.headers };
  for (const name of ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"]) delete headers[name];
  const upstream = http.request(
    { host: "127.0.0.1", port, method: request.method, path: target, headers },
    (answer) => {
      const answered = { ...corsHeaders(), ...answer.headers };
      delete answered.connection;
      delete answered["keep-alive"];
      // Whatever of the body hasn't been sent by now, nobody wants to have: it is refused, most likely.
      request.unpipe(upstream);
      request.resume();
      response.writeHead(answer.statusCode ?? 502, answered);
      answer.pipe(response);
      // A service that dies in the middle of its answer: half of it must not look like one that is still coming.
      answer.on("close", () => { if (!answer.complete) response.destroy(); });
    },
  );
  upstream.on("error", (error) => {
    if (response.headersSent) response.destroy();
    else refuse(response, 503, "KP503", "the service behind this path doesn't answer", error.code ?? null);
  });
  response.on("close", () => upstream.destroy());
  request.pipe(upstream);
}

/** Pipe a websocket upgrade to a local service, bytes as they are. */
function proxyUpgrade(request, socket, head, port, target) {
  const upstream = net.connect(port, "127.0.0.1", () => {
    const lines = [`${request.method} ${target} HTTP/1.1`];
    for (let i = 0; i < request.rawHeaders.length; i += 2) {
      lines.push(`${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}`);
    }
    upstream.write(`${lines.join("\r\n")}\r\n\r\n`);
    upstream.write(head);
    socket.pipe(upstream).pipe(socket);
  });
  const end = () => { socket.destroy(); upstream.destroy(); };
  upstream.on("error", () => {
    if (upstream.bytesRead === 0 && socket.writable) refuseUpgrade(socket, 503, "realtime doesn't answer");
    end();
  });
  socket.on("error", end);
  socket.on("close", end);
  upstream.on("close", end);
}

function refuseUpgrade(socket, status, message) {
  const body = JSON.stringify({ error: message });
  socket.end(
    `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\ncontent-type: application/json\r\n` +
    `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}

function under(pathname, prefix) {
  return pathname === prefix || pathname.startsWith(`${prefix}/`);
}

/**
 * Read a body whose length nobody declared; null is one that is longer than it may be.
 *
 * What exceeds the limit is thrown away as it comes, so that whoever sends it gets to read the refusal; for so long.
 */
function readBody(request) {
  return new Promise((resolve, reject) => {
    let parts = [];
    let bytes = 0;
    request.on("data", (part) => {
      bytes += part.length;
      if (bytes <= MAX_BODY_BYTES) {
        parts.push(part);
      } else {
        parts = [];
        resolve(null);
        if (bytes > 4 * MAX_BODY_BYTES) request.destroy();
      }
    });
    request.on("end", () => resolve(Buffer.concat(parts)));
    request.on("close", () => reject(new Disconnected("the client left in the middle of its request")));
    request.on("error", () => reject(new Disconnected("the client's connection broke")));
  });
}

class Disconnected extends Error {}

function refuseLongBody(response) {
  refuse(response, 413, "KP413", `a request body may have at most ${MAX_BODY_BYTES} bytes`);
}

/** Links that people follow from a mail or a provider carry no key; upstream leaves the same ones open. */
const KEYLESS_AUTH = /^\/auth\/v1\/(verify|callback|authorize|\.well-known\/[^/]+)$/;

/** Wait for an answer as long as the database can still give one; a lost one is a 503, never a hanging request. */
async function whileReachable(connection, serve) {
  let giveUp;
  const lost = new Promise((resolve) => { giveUp = () => resolve(unavailable()); });
  const deadline = setTimeout(giveUp, REQUEST_SECONDS * 1000);
  connection.waiting.add(giveUp);
  try {
    return await Promise.race([serve(), lost]);
  } catch (error) {
    console.error(error);
    const gone = CONNECTION_LOST.test(`${error?.code} ${error?.message}`) || !(await databaseAnswers(connection));
    if (gone) return unavailable();
    throw error;
  } finally {
    connection.waiting.delete(giveUp);
    clearTimeout(deadline);
  }
}

function makeOrigin(config, app, connection) {
  const keys = [["anon", config.publishableKey], ["service_role", config.secretKey]];
  const keyRole = (key) => (key ? keys.find(([, value]) => same(key, value))?.[0] : undefined);

  const serve = async (request, env) => {
    const url = new URL(request.url);
    const context = {
      headers: Object.fromEntries(request.headers),
      method: request.method,
      path: url.pathname.replace(/^\/rest\/v1/, "") || "/",
    };
    let encoded;
    try {
      encoded = await encodeJsonArguments(request, connection);
    } catch (error) {
      // Which arguments are JSON only the database knows: without it, to guess would be to store a string for an object.
      if (error instanceof Unavailable || CONNECTION_LOST.test(`${error?.code} ${error?.message}`)) return unavailable();
      if (error instanceof Unreadable) return refusal(error.status, error.code, error.message);
      throw error;
    }
    const result = await currentRequest.run(context, () =>
      app.fetch(encoded, { peerAddress: env.incoming.socket.remoteAddress ?? null }));
    const headers = new Headers(result.headers);
    for (const [name, value] of Object.entries(corsHeaders())) headers.set(name, value);
    if (result.status >= 500) {
      // Lite has one answer for all it can't name. A lost connection is worth another try; the rest is our log's.
      const body = await result.text();
      if (CONNECTION_LOST.test(body) || !(await databaseAnswers(connection))) return unavailable();
      console.error(`${request.method} ${url.pathname}: ${result.status} ${body.slice(0, 2000)}`);
      headers.delete("content-length");
      const [told, status] = withSqlState(body, result.status);
      return new Response(told, { status, headers });
    }
    return new Response(result.body, { status: result.status, headers });
  };
  const answer = getRequestListener((request, env) => whileReachable(connection, () => serve(request, env)));

  const realtimeTarget = (url) => `${url.pathname.slice("/realtime/v1".length) || "/"}${url.search}`;

  const handle = async (request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    const { pathname } = url;
    const isApi = ["/rest/v1", "/auth/v1", "/functions/v1", "/realtime/v1"].some((prefix) => under(pathname, prefix));

    if (request.method === "OPTIONS" && isApi && request.headers["access-control-request-method"] !== undefined) {
      return preflight(request, response);
    }
    if (pathname === "/" && ["GET", "HEAD"].includes(request.method)) {
      return send(response, 200, {
        name: "knowledge-persistence",
        version: config.version,
        home: config.homeId,
        endpoints: { rest: "/rest/v1", auth: "/auth/v1", functions: "/functions/v1", realtime: "/realtime/v1" },
      });
    }
    if (pathname === "/healthz" && ["GET", "HEAD"].includes(request.method)) {
      const healthy = await databaseAnswers(connection);
      return send(response, healthy ? 200 : 503, { status: healthy ? "ok" : "unavailable", database: healthy });
    }
    if (!isApi) return refuse(response, 404, "KP404", "no such path", "GET / lists the endpoints");

    for (const name of CONTEXT_HEADERS) {
      const value = request.headers[name];
      if (value !== undefined && String(value).length > MAX_CONTEXT_HEADER_CHARS) {
        return refuse(response, 431, "KP431", `the header ${name} is too long`);
      }
    }
    if (Number(request.headers["content-length"] ?? 0) > MAX_BODY_BYTES) {
      request.resume();
      return refuseLongBody(response);
    }

    const apikey = request.headers.apikey ?? url.searchParams.get("apikey");
    const role = keyRole(apikey);
    const bearer = /^Bearer\s+(\S+)\s*$/i.exec(request.headers.authorization ?? "")?.[1];
    // Functions know agents' tokens; many an agent can send nothing else.
    const isAgent = bearer !== undefined && bearer.startsWith("kpt_") && under(pathname, "/functions/v1");
    if (role === undefined && !KEYLESS_AUTH.test(pathname) && !(isAgent && !apikey)) {
      request.resume();
      return refuse(
        response, 401, apikey ? "UNAUTHORIZED_INVALID_API_KEY" : "UNAUTHORIZED_MISSING_API_KEY",
        apikey ? "Invalid API key" : "No API key found in request",
        "send the publishable key in the header `apikey`",
      );
    }
    const isToken = bearer !== undefined && !bearer.startsWith("sb_") && !isAgent;
    if (isToken && !under(pathname, "/realtime/v1")) {
      const problem = tokenProblem(bearer, acceptedSecrets(config));
      if (problem !== null) {
        request.resume();
        const [code, message] = problem;
        const headers = { "www-authenticate": `Bearer error="invalid_token", error_description="${message}"` };
        if (under(pathname, "/auth/v1")) {
          return send(response, 401, { code: 401, error_code: "bad_jwt", msg: `invalid JWT: ${message}` }, headers);
        }
        return refuse(response, 401, code, message, null, headers);
      }
      replaceHeader(request, "authorization", `Bearer ${signedForLite(bearer, config)}`);
    }

    if (under(pathname, "/functions/v1")) {
      if (!config.functionsPort) {
        request.resume();
        return refuse(response, 503, "KP503", "no edge functions run in this stack");
      }
      return proxy(request, response, config.functionsPort, request.url);
    }
    if (under(pathname, "/realtime/v1")) {
      if (!config.realtimePort) {
        request.resume();
        return refuse(response, 503, "KP503", "realtime doesn't run in this stack");
      }
      return proxy(request, response, config.realtimePort, realtimeTarget(url));
    }
    // The gateway of a real deployment keeps the description of the whole schema for the secret key, too.
    if (/^\/rest\/v1\/?$/.test(pathname) && role !== "service_role") {
      request.resume();
      return refuse(response, 403, "KP403", "the API description needs the secret key");
    }
    if (request.headers["transfer-encoding"] !== undefined) {
      const body = await readBody(request);
      if (body === null) return refuseLongBody(response);
      // Where the listener looks before it reads.
      request.rawBody = body;
    }
    return answer(request, response);
  };

  const server = http.createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
    handle(request, response).catch((error) => {
      if (!(error instanceof Disconnected)) console.error(error);
      if (response.headersSent || error instanceof Disconnected) response.destroy();
      else refuse(response, 500, "KP500", "the front failed; its log says why");
    });
  });
  server.on("upgrade", (request, socket, head) => {
    // Who goes away while being refused is nobody's error.
    socket.on("error", () => socket.destroy());
    if (!URL.canParse(request.url, "http://127.0.0.1")) return refuseUpgrade(socket, 400, "no such address");
    const url = new URL(request.url, "http://127.0.0.1");
    const key = request.headers["x-api-key"] ?? request.headers.apikey ?? url.searchParams.get("apikey");
    if (!under(url.pathname, "/realtime/v1")) return refuseUpgrade(socket, 404, "no such path");
    if (keyRole(key) === undefined) return refuseUpgrade(socket, 401, "API key is missing or unknown");
    if (!config.realtimePort) return refuseUpgrade(socket, 503, "realtime doesn't run in this stack");
    proxyUpgrade(request, socket, head, config.realtimePort, realtimeTarget(url));
  });
  return server;
}

async function databaseAnswers(connection) {
  const timeout = new Promise((resolve) => { setTimeout(resolve, 2000, false).unref(); });
  const query = sql`select 1`.execute(connection.kysely).then(() => true, () => false);
  return Promise.race([query, timeout]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Studio

const CONTENT_TYPES = {
  ".css": "text/css; charset=utf-8", ".ico": "image/x-icon", ".js": "text/javascript; charset=utf-8",
  ".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml", ".woff2": "font/woff2",
};

/**
 * Serve Lite's Studio with admin rights on a port of its own.
 *
 * Lite's admin mode makes every keyless request from this machine `service_role`. So nothing is passed on before the
 * token in the URL that `kp studio` prints has been exchanged for a cookie: other accounts of the machine, and pages
 * from elsewhere, don't have it.
 */
function makeStudio(config, app) {
  const cookie = `kp_studio_${config.port}`;
  const session = randomBytes(24).toString("base64url");
  const root = path.dirname(fileURLToPath(import.meta.resolve("@supabase/lite/dist/manifest.json")));
  const assets = path.dirname(root);

  const answer = getRequestListener((request, env) => currentRequest.run(
    { headers: {}, method: request.method, path: new URL(request.url).pathname },
    () => app.fetch(request, { peerAddress: env.incoming.socket.remoteAddress ?? null }),
  ));
  const loopback = new Set([`127.0.0.1:${config.port}`, `localhost:${config.port}`]);

  const handle = async (request, response) => {
    if (!loopback.has(request.headers.host)) return refuse(response, 403, "KP403", "unknown host");
    const url = new URL(request.url, "http://127.0.0.1");
    const token = url.searchParams.get("token");
    if (request.method === "GET" && token !== null && same(token, config.studioToken)) {
      response.writeHead(303, {
        // One slash at the start: two would name another host.
        location: `/${url.pathname.replace(/^\/+/, "")}`,
        "set-cookie": `${cookie}=${session}; Path=/; HttpOnly; SameSite=Strict`,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
      });
      return response.end();
    }
    const cookies = String(request.headers.cookie ?? "").split(/;\s*/);
    if (!cookies.some((pair) => same(pair, `${cookie}=${session}`))) {
      return refuse(response, 401, "KP401", "open the address that `kp studio` printed");
    }
    if (url.pathname.startsWith("/static/") || url.pathname === "/favicon.ico") {
      const relative = url.pathname === "/favicon.ico" ? "favicon.ico" : decodeURIComponent(url.pathname.slice(8));
      const file = path.resolve(assets, relative);
      if (!file.startsWith(assets + path.sep)) return refuse(response, 404, "KP404", "no such file");
      const found = await stat(file).catch(() => null);
      if (!found?.isFile()) return refuse(response, 404, "KP404", "no such file");
      response.writeHead(200, {
        "content-type": CONTENT_TYPES[path.extname(file)] ?? "application/octet-stream",
        "content-length": found.size,
      });
      return createReadStream(file).pipe(response);
    }
    return answer(request, response);
  };
  return http.createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
    handle(request, response).catch((error) => {
      console.error(error);
      if (response.headersSent) response.destroy();
      else refuse(response, 500, "KP500", "Studio failed");
    });
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

async function start(config) {
  const connection = openConnection(config.database);
  const app = new App({
    connection,
    project_id: "knowledge-persistence",
    api: {
      enabled: true,
      schemas: ["public"],
      extra_search_path: ["public", "extensions"],
      max_rows: 1000,
      pg_safe_update: true,
    },
    auth: {
      enabled: true,
      jwt_secret: config.jwtSecret,
      publishable_key: config.publishableKey,
      secret_key: config.secretKey,
      site_url: config.siteUrl,
      additional_redirect_urls: [],
      jwt_expiry: 3600,
      enable_signup: true,
      enable_anonymous_sign_ins: false,
      enable_refresh_token_rotation: true,
      minimum_password_length: 8,
      email: { enable_signup: true, enable_confirmations: false },
    },
    // The migrations are ours: Lite neither makes nor reads their history.
    db: { driver: "postgres", migrations: { enabled: false } },
    storage: { enabled: false },
    realtime: { enabled: false },
    studio: { enabled: config.mode === "studio" },
    options: { server: { admin: config.mode === "studio", disableStudio: config.mode !== "studio" } },
  });
  await app.init();
  // Lite's own statements fail in silence; without a database each of them would wait for one.
  await sql`select 1`.execute(connection.kysely);
  // A request that meets an unreachable database gets a 503, which clients retry, and never an empty schema's 404.
  app.server.onError((error, context) => {
    if (error instanceof Unavailable || CONNECTION_LOST.test(`${error?.code} ${error?.message}`)) return unavailable();
    console.error(error);
    return context.json(
      { code: "KP500", message: "the request failed; the front's log says why", details: null, hint: null }, 500);
  });

  if (config.mode !== "studio") {
    await app.ensureSystemSchema();
    // Lite swallows the errors of its own statements; without these tables nobody could sign up.
    const { rows } = await sql`
      select name from unnest(array['users', 'sessions', 'refresh_tokens', 'identities']) as name
      where to_regclass('auth.' || name) is null`.execute(connection.kysely);
    if (rows.length > 0) throw new Error(`Auth didn't make ${rows.map((row) => `auth.${row.name}`).join(", ")}`);
  }
  if (config.mode === "prepare") {
    await connection.close();
    emit("prepared");
    process.exit(0);
  }
  watchSchema(config.database, connection);
  const server = config.mode === "studio" ? makeStudio(config, app) : makeOrigin(config, app, connection);
  return { server, connection };
}

async function main() {
  const lines = createInterface({ input: process.stdin });
  let running = null;
  let stopping = false;

  const stop = () => {
    if (stopping) return;
    stopping = true;
    // Requests under way may finish; none may keep the process.
    setTimeout(() => process.exit(0), 2000).unref();
    if (running === null) process.exit(0);
    running.server.close(() => process.exit(0));
    running.server.closeIdleConnections();
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  lines.on("close", stop);
  // A lost database connection surfaces in the request that used it; what else is rejected unseen is logged.
  process.on("unhandledRejection", (error) => console.error("unhandled rejection:", error));
  process.on("uncaughtException", (error) => {
    console.error("uncaught exception:", error);
    // postgres.js 3.4.9 may write to a socket that is gone, and then forgets the query. Nothing else is excused.
    if (!/[\\/]postgres[\\/]src[\\/]connection\.js/.test(String(error?.stack))) process.exit(1);
    running?.connection.renew();
  });

  let configured = false;
  lines.on("line", (line) => {
    const message = JSON.parse(line);
    if (!configured) {
      configured = true;
      start(message).then((started) => {
        running = started;
        running.server.on("error", (error) => fatal(
          error.code === "EADDRINUSE" ? `port ${message.port} is taken` : `can't listen: ${error.message}`));
        emit("prepared");
        running.config = message;
      }, (error) => {
        console.error(error);
        fatal(error.message);
      });
    } else if (message.command === "listen") {
      // The first request shouldn't pay for reading the schema.
      running.connection.introspect({ useCache: true }).then(
        () => running.server.listen(
          running.config.port, "127.0.0.1", () => emit("listening", { port: running.config.port })),
        (error) => fatal(error.message),
      );
    } else if (message.command === "reload") {
      running.connection.clearSchemaCache().then(() => emit("reloaded"));
    }
  });
}

main();
