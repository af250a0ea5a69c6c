// The official client, unmodified, in the contract of realtime. Arguments: origin, publishable key, protocol version,
// and a JSON object of an expired token. Prints what it saw as JSON; an unexpected error ends it with a non-zero status.
import { createClient } from '@supabase/supabase-js'
import ws from 'ws' // Node.js before 22 has no WebSocket of its own

const [origin, key, vsn, expired] = process.argv.slice(2)
const sockets = []
class Socket extends ws {
  constructor(...given) {
    super(...given)
    sockets.push(this)
  }
}
const options = { auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: Socket, vsn } }
const seen = {}

function orThrow({ data, error }) {
  if (error) throw new Error(JSON.stringify(error))
  return data
}

async function signedUp(name) {
  const client = createClient(origin, key, options)
  const email = `${name}-${crypto.randomUUID()}@example.org`
  const { user, session } = orThrow(await client.auth.signUp({ email, password: 'a long enough password' }))
  await client.realtime.setAuth(session.access_token)
  return Object.assign(client, { user, session })
}

/** What was heard, and a way to wait for more of it. */
function ear() {
  const heard = []
  const waiting = []
  return {
    heard,
    put: (value) => { heard.push(value); waiting.splice(0).forEach((check) => check()) },
    until: (condition, what) => new Promise((resolve, reject) => {
      const check = () => {
        const found = heard.find(condition)
        if (found !== undefined) { clearTimeout(timer); resolve(found) } else waiting.push(check)
      }
      const timer = setTimeout(() => reject(new Error(`never heard: ${what}; heard ${JSON.stringify(heard)}`)), 30000)
      check()
    }),
  }
}

function subscribed(channel) {
  return new Promise((resolve) => channel.subscribe((status, error) => {
    if (status !== 'CLOSED') resolve({ status, message: error?.message ?? null })
  }))
}

const [ada, ben, mallory] = [await signedUp('ada'), await signedUp('ben'), await signedUp('mallory')]
const [{ workspace_id: team }] = orThrow(await ada.rpc('create_workspace', { name: 'team' }))
orThrow(await ada.rpc('add_workspace_member', { workspace_id: team, user_id: ben.user.id }))
const topic = `workspace:${team}`
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

// Who may not join, and whose token has expired.
seen.denied = await subscribed(mallory.channel(topic, { config: { private: true } }))
const late = createClient(origin, key, options)
await late.realtime.setAuth(expired)
seen.expired = await subscribed(late.channel(topic, { config: { private: true } }))

// Broadcasts both ways, with acknowledgement and to oneself; what SQL sends.
const [adaHears, benHears] = [ear(), ear()]
const adas = ada.channel(topic, { config: { private: true, broadcast: { ack: true, self: true }, presence: { key: 'ada' } } })
const bens = ben.channel(topic, { config: { private: true, presence: { key: 'ben' } } })
for (const [channel, heard] of [[adas, adaHears], [bens, benHears]]) {
  channel.on('broadcast', { event: '*' }, (message) => heard.put(message))
}
const presence = ear()
adas.on('presence', { event: 'sync' }, () => presence.put({ sync: Object.keys(adas.presenceState()).sort() }))
adas.on('presence', { event: 'join' }, ({ key: who, newPresences }) => presence.put({ join: who, doing: newPresences[0].doing }))
adas.on('presence', { event: 'leave' }, ({ key: who }) => presence.put({ leave: who }))
seen.allowed = [await subscribed(adas), await subscribed(bens)]
seen.acknowledged = await adas.send({ type: 'broadcast', event: 'hello', payload: { from: 'ada', text: 'grüße' } })
await benHears.until((m) => m.event === 'hello', 'hello by ben')
await adaHears.until((m) => m.event === 'hello', 'hello by ada herself')
await bens.send({ type: 'broadcast', event: 'answer', payload: { from: 'ben' } })
seen.answer = (await adaHears.until((m) => m.event === 'answer', 'answer')).payload
seen.hello = benHears.heard.map(({ event, payload }) => [event, payload])

await bens.track({ doing: 'reading' })
await presence.until((p) => p.join === 'ben', 'ben joins')
await presence.until((p) => p.sync?.includes('ben'), 'sync with ben')
await bens.untrack()
await presence.until((p) => p.leave === 'ben', 'ben leaves')
seen.presence = presence.heard.find((p) => p.join === 'ben')

// Changes of rows.
const changes = {}
for (const [name, client] of [['ada', ada], ['ben', ben], ['mallory', mallory]]) {
  const heard = (changes[name] = ear())
  const channel = client.channel(`changes of ${name}`)
  channel.on('postgres_changes',
    { event: '*', schema: 'public', table: 'knowledge_items', filter: 'importance_score=gte.60' }, (c) => heard.put(c))
  channel.on('postgres_changes', { event: 'DELETE', schema: 'public', table: 'knowledge_items' }, (c) => heard.put(c))
  const system = ear()
  channel.on('system', {}, (message) => system.put(message))
  await subscribed(channel)
  await system.until((m) => m.extension === 'postgres_changes' && m.status === 'ok', 'Subscribed to PostgreSQL')
}
const inside = createClient(origin, key, {
  ...options, global: { headers: { 'x-workspace-id': team, authorization: `Bearer ${ada.session.access_token}` } },
})
const record = async (title, importance_score) => orThrow(await inside.rpc('record_knowledge',
  { title, content: title, importance_score, context_data: { n: [1] } }))[0].knowledge_id
await record('left out by the filter', 10)
await record('Hidden', 80)
const item = await record('Ports', 80)
const inserted = await changes.ada.until((c) => c.new?.title === 'Ports', 'insert')
seen.inserted = [inserted.new.title, inserted.new.importance_score, inserted.new.context_data, inserted.new.id === item]
orThrow(await inside.rpc('validate_knowledge', { knowledge_id: item }))
// The worker changes the row as well, when it stores the vector: before, or after.
const updated = await changes.ben.until(
  (c) => c.eventType === 'UPDATE' && c.new.validation_status === 'validated', 'update')
seen.updated = [updated.new.validation_status, updated.old.id === item]
seen.pushed = (await benHears.until((m) => m.payload?.events?.[0]?.what === 'shared', 'the push')).payload.events[0].knowledge_id === item
orThrow(await inside.rpc('forget_knowledge', { knowledge_id: item }))
const deleted = await changes.mallory.until((c) => c.eventType === 'DELETE', 'delete')
seen.deleted = [deleted.old.id === item, Object.keys(deleted.old)]
seen.titles = Object.fromEntries(Object.entries(changes).map(([name, { heard }]) =>
  [name, [...new Set(heard.map((c) => c.new?.title).filter(Boolean))].sort()]))

// A fresh token is taken; one that is no good closes the channel.
const fresh = orThrow(await ben.auth.refreshSession()).session.access_token
await ben.realtime.setAuth(fresh)
await adas.send({ type: 'broadcast', event: 'after the refresh', payload: {} })
await benHears.until((m) => m.event === 'after the refresh', 'a broadcast after the refresh')

// A lost connection is made again, and the channels with it.
const rejoined = ear()
const again = ada.channel('again', { config: { broadcast: { self: true } } })
again.on('broadcast', { event: 'x' }, (m) => rejoined.put(m))
await new Promise((resolve) => again.subscribe((status) => { if (status === 'SUBSCRIBED') { rejoined.put({ event: status }); resolve() } }))
rejoined.heard.length = 0
sockets.forEach((socket) => socket.terminate())
await rejoined.until((m) => m.event === 'SUBSCRIBED', 'the second join')
await again.send({ type: 'broadcast', event: 'x', payload: {} })
await rejoined.until((m) => m.event === 'x', 'a broadcast after the reconnection')

// Whoever is no member any more is shown out when the token is next checked.
const closed = ear()
bens.on('system', {}, (m) => closed.put(m))
for (let waited = 0; bens.state !== 'joined'; waited += 50) {
  if (waited > 30000) throw new Error(`ben never joined again: ${bens.state}`)
  await pause(50)
}
orThrow(await ada.rpc('remove_workspace_member', { workspace_id: team, user_id: ben.user.id }))
const other = orThrow(await ben.auth.refreshSession()).session.access_token
await ben.realtime.setAuth(other)
seen.removed = (await closed.until((m) => m.status === 'error', 'the refusal')).status

for (const client of [ada, ben, mallory, late]) await client.realtime.disconnect()
console.log(JSON.stringify(seen))
process.exit(0)
