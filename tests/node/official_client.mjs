// The official client, unmodified, as an application would use it. Arguments: origin, publishable key.
// Prints what came back as JSON; an unexpected error ends it with a non-zero status.
import { createClient } from '@supabase/supabase-js'
import ws from 'ws' // Node.js before 22 has no WebSocket of its own

const [origin, key] = process.argv.slice(2)
const options = { auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: ws } }

function orThrow({ data, error }) {
  if (error) throw new Error(JSON.stringify(error))
  return data
}

async function signedUp(name) {
  const client = createClient(origin, key, options)
  const email = `${name}-${crypto.randomUUID()}@example.org`
  orThrow(await client.auth.signUp({ email, password: 'a long enough password' }))
  return client
}

const axis = JSON.stringify(Array.from({ length: 384 }, (_, i) => (i === 3 ? 1 : 0)))
const grace = await signedUp('grace')
const inserted = orThrow(
  await grace
    .from('knowledge_items')
    .insert({ title: 'Deadlocks', content: 'Lock rows in one order.', content_embedding: axis })
    .select('id, title, validation_status, owner_id')
    .single(),
)
const selected = orThrow(await grace.from('knowledge_items').select('title').eq('id', inserted.id))
const similar = orThrow(await grace.rpc('find_similar_knowledge', { query_embedding: axis }))
const searched = orThrow(await grace.rpc('search_knowledge', { query_text: 'in which order do I lock?' }))

const mallory = await signedUp('mallory')
const foreign = orThrow(await mallory.from('knowledge_items').select('id'))
const rated = await mallory.rpc('rate_knowledge', { knowledge_id: inserted.id, effectiveness_rating: 1 })
const session = orThrow(await grace.rpc('start_session', { session_identifier: 'js' }))[0]
const forger = createClient(origin, key, { ...options, global: { headers: { 'x-session-id': session.session_id } } })
orThrow(await forger.auth.signUp({ email: `forger-${crypto.randomUUID()}@example.org`, password: 'a long enough password' }))
const forged = await forger.rpc('record_knowledge', { title: 'x', content: 'x' })
const anonymous = await createClient(origin, key, options).from('knowledge_items').select('id')

console.log(
  JSON.stringify({
    inserted,
    selected,
    similar,
    searched,
    foreign,
    rated: { code: rated.error?.code, status: rated.status },
    forged: { code: forged.error?.code, status: forged.status },
    anonymous: { code: anonymous.error?.code, status: anonymous.status },
  }),
)
