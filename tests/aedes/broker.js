// aedes (MQTT 3.1.1 only) on a free loopback port, with access rules as for the bridge; prints {"port"}, ends on SIGTERM.
// One argument, JSON: {"users": {name: password}, "bridge": name, "root": topic, "checksIds": bool}. Without checksIds it
// makes the usual mistake: it compares a filter with a text that the client id was pasted into.
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const { users, bridge, root, checksIds } = JSON.parse(process.argv[2])
const broker = await Aedes.createBroker()
const names = new WeakMap()

broker.authenticate = (client, username, password, done) => {
  const known = typeof username === 'string' && Object.hasOwn(users, username)
  const right = known && password !== null && users[username] === String(password)
  const id = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/.test(client.id)
  if (!right || (checksIds && !id)) {
    done(Object.assign(new Error('not authorized'), { returnCode: 5 }), null)
    return
  }
  names.set(client, username)
  done(null, true)
}

const own = (client, kind) => `${root}/${names.get(client)}/${client.id}/${kind}`
const isOfKind = (topic, kinds) => {
  const [user, id, kind, ...rest] = topic.slice(root.length + 1).split('/')
  return topic.startsWith(`${root}/`) && user && id && rest.length === 0 && kinds.includes(kind)
}

broker.authorizePublish = (client, packet, done) => {
  const may = client && (names.get(client) === bridge
    ? isOfKind(packet.topic, ['reply', 'request', 'ack'])
    : [own(client, 'request'), own(client, 'ack')].includes(packet.topic))
  done(may ? null : new Error('not authorized'))
}

broker.authorizeSubscribe = (client, subscription, done) => {
  const may = names.get(client) === bridge
    ? isOfKind(subscription.topic, ['request', 'ack'])
    : subscription.topic === own(client, 'reply')
  done(null, may ? subscription : null)
}

const server = createServer({ noDelay: true }, broker.handle)
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })))
process.on('SIGTERM', () => process.exit(0))
