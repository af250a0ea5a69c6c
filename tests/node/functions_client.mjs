// The edge functions through the official client, unmodified. Arguments: origin, publishable key.
// Prints what came back as JSON; an unexpected error ends it with a non-zero status.
import { createClient } from '@supabase/supabase-js'
import ws from 'ws' // Node.js before 22 has no WebSocket of its own

const [origin, key] = process.argv.slice(2)
const options = { auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: ws } }

async function invoke(client, name, body) {
  const { data, error } = await client.functions.invoke(name, { body })
  if (error) throw new Error(`${name}: ${error.context?.status} ${await error.context?.text?.()}`)
  return data
}

async function refused(client, name, body) {
  const { error } = await client.functions.invoke(name, { body })
  return { status: error.context.status, body: await error.context.json() }
}

async function signedUp(name, headers = {}) {
  const client = createClient(origin, key, { ...options, global: { headers } })
  const email = `${name}-${crypto.randomUUID()}@example.org`
  const { error } = await client.auth.signUp({ email, password: 'a long enough password' })
  if (error) throw error
  return client
}

const question = 'two transactions wait for each other'
const grace = await signedUp('grace')
const recorded = await invoke(grace, 'remember', { content: 'Lock rows in one order.' })
const forger = await signedUp('forger', { 'x-workspace-id': recorded.workspace_id })
console.log(
  JSON.stringify({
    recorded,
    foreign: await invoke(await signedUp('mallory'), 'recall', { query: question }),
    forged: await refused(forger, 'recall', { query: question }),
    anonymous: await refused(createClient(origin, key, options), 'recall', { query: question }),
    invalid: await refused(grace, 'recall', { query: question, max_results: 0 }),
    recalled: await invoke(grace, 'recall', { query: question }),
    context: await invoke(grace, 'context', { situation: question }),
    gotchas: await invoke(grace, 'gotchas', { problem: question }),
    dimensions: (await invoke(grace, 'embed', { texts: [question] })).dimensions,
  }),
)
