// Get this device its own MQTT credentials: Node on mqtt.js, in one file.
//
//     node provision.mjs DIRECTORY
//
// DIRECTORY holds device.json, what the factory wrote, and later the two slots for the credential. Runs until the device
// works under its new identity; may be killed and started again at any point. Ends with 3 where only a change of firmware
// or an operator helps.

import { createDecipheriv, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import mqtt from 'mqtt'

const STOP = ['already-provisioned', 'expired', 'abandoned', 'bad-request', 'bad-csr', 'unsupported', 'too-large']
const REFUSED = [2, 4, 5, 132, 133, 134, 135, 138] // anything else, a busy server for instance, is worth another try
const SECONDS = 10 // for a connection, its login and its SUBSCRIBE

class Stopped extends Error {} // no repetition helps
class Superseded extends Error {} // the requestId, or the credential that an ack was about, is void

const tell = (step) => process.stderr.write(`${step}\n`)
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const parse = (text) => { try { return JSON.parse(text) } catch { return null } }

// --- storage: two slots and a mark; each file is on disk before the next thing happens

class Storage {
  constructor (directory) {
    this.directory = directory
    this.device = JSON.parse(this.read('device.json'))
  }

  read (name) {
    const path = join(this.directory, name)
    return existsSync(path) ? readFileSync(path, 'utf8') : ''
  }

  write (name, text) {
    const path = join(this.directory, name)
    const file = openSync(`${path}.new`, 'w', 0o600)
    writeSync(file, text)
    fsyncSync(file)
    closeSync(file)
    renameSync(`${path}.new`, path)
    const folder = openSync(this.directory, 'r')
    fsyncSync(folder)
    closeSync(folder)
  }

  load () {
    const slot = this.read('current')
    return slot ? parse(this.read(`slot-${slot}`)) : null
  }

  store (credential) { // write the free slot, read it back, make it current
    const free = this.read('current') === '0' ? '1' : '0'
    const text = JSON.stringify(credential)
    this.write(`slot-${free}`, text)
    if (this.read(`slot-${free}`) !== text) throw new Error('the slot does not hold what was written')
    this.write('current', free)
  }

  drop () { this.write('current', '') }

  forget () { // erase the provisioning login and the activation key
    const { password, activationKey, ...rest } = this.device
    this.device = rest
    this.write('device.json', JSON.stringify(rest))
  }
}

// --- keys, proofs, seals

const mac = (key, ...parts) => createHmac('sha256', key).update(parts.join('|')).digest()

class Keys {
  constructor ({ mode, user, clientId, activationKey }) {
    this.about = `prov/v1 reply|${user}|${clientId}`
    this.shown = mode === 'plain' ? activationKey : null
    this.auth = mac(activationKey, 'prov/v1 auth', user, clientId)
    this.seal = mac(activationKey, 'prov/v1 seal', user, clientId)
  }

  // What shows that we have the key: a proof over these parts, or in plain mode the key itself.
  sign (body, nonce, ...parts) {
    if (this.shown) return { ...body, activationKey: this.shown }
    return { ...body, nonce, proof: mac(this.auth, ...parts).toString('base64url') }
  }

  proves (reply) {
    const said = ['requestId', 'nonce', 'code', 'reason', 'generation', 'retryAfter'].map((key) => reply[key] ?? '')
    const expected = Buffer.from(mac(this.auth, 'reply', ...said, reply.forget === true ? 'true' : '').toString('base64url'))
    const found = Buffer.from(String(reply.proof ?? ''))
    return found.length === expected.length && timingSafeEqual(found, expected)
  }

  open (reply) { // the offer inside; null unless it was sealed for us
    if (this.shown) return reply
    if (reply.alg !== 'A256GCM' || typeof reply.sealed !== 'string') return null
    const sealed = Buffer.from(reply.sealed, 'base64url')
    if (sealed.length < 28) return null
    const key = mac(this.seal, 'reply', reply.requestId, reply.nonce)
    const cipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12), { authTagLength: 16 })
    cipher.setAAD(Buffer.from(this.about)).setAuthTag(sealed.subarray(-16))
    try {
      return parse(Buffer.concat([cipher.update(sealed.subarray(12, -16)), cipher.final()]).toString())
    } catch {
      return null
    }
  }
}

// --- one connection; whoever waits is told of messages and of its end

function connect (url, login, ca) {
  const options = { ...login, reconnectPeriod: 0, connectTimeout: SECONDS * 1000, protocolVersion: 4, resubscribe: false }
  return new Promise((resolve, reject) => {
    const client = mqtt.connect(url, ca ? { ...options, ca } : options)
    client.once('connect', () => resolve(client))
    client.on('error', (error) => { client.end(true); reject(error) })
    client.once('close', () => reject(new Error('the connection is gone')))
  })
}

class Provisioning {
  constructor (device) {
    this.device = device
    this.keys = new Keys(device)
    this.root = `prov/v1/${device.user}/${device.clientId}`
    this.times = { replyMs: 10_000, firstPauseMs: 5_000, longestPauseMs: 300_000, ...device.times }
    this.client = null
  }

  async open () {
    if (this.client?.connected) return
    const { host, port, clientId, user: username, password, ca } = this.device
    this.inbox = []
    const client = await connect(`${ca ? 'mqtts' : 'mqtt'}://${host}:${port}`, { clientId, username, password },
      ca && readFileSync(ca))
    tell('connected')
    client.on('message', (_, payload) => { this.inbox.push(payload); this.wake?.() })
    client.on('close', () => this.wake?.())
    this.client = client
    const [granted] = await client.subscribeAsync(`${this.root}/reply`, { qos: 1 }) // waits for SUBACK
    if (granted.qos > 2) throw new Error('SUBSCRIBE is refused')
  }

  close () {
    this.client?.end(true)
    this.client = null
  }

  // Send what `write(nonce)` says, again and again, until a reply ends it; return the offer or the reply.
  async exchange (topic, write) {
    let nonces = []
    let attempt = 0
    for (;;) {
      const nonce = randomBytes(16).toString('base64url')
      nonces = [...nonces, nonce].slice(-4)
      const body = write(nonce)
      let pause = Math.random() * Math.min(this.times.longestPauseMs, this.times.firstPauseMs * 2 ** attempt)
      attempt = Math.min(attempt + 1, 16)
      try {
        await this.open()
        tell(`${topic} ${body.requestId}`)
        this.client.publish(`${this.root}/${topic}`, JSON.stringify(body), { qos: 1 })
        const reply = await this.listen(body.requestId, nonces)
        if (reply) {
          const taken = this.judge(reply, topic === 'request')
          if (taken) return taken
          const after = reply.retryAfter
          if (Number.isInteger(after) && after >= 1 && after <= 86400) {
            const proved = this.keys.proves(reply)
            // Who cannot prove itself may slow us down, but not for long.
            pause = (proved ? after * 1000 : Math.min(after * 1000, this.times.longestPauseMs)) * (1 + Math.random() / 2)
            if (proved) [attempt, nonces] = [0, []] // what still comes for these is a repetition
          }
        } else if (attempt > 1) this.close() // a second silence: it may be open at this end only
      } catch (error) {
        if (error instanceof Stopped || error instanceof Superseded) throw error
        tell(`lost: ${error.message}`)
        this.close()
      }
      tell(`pause ${Math.round(pause)} ms`)
      if (pause > 60_000) this.close()
      await sleep(pause)
    }
  }

  // The next reply to one of our last messages; anything else is dropped. Null after the time for a reply.
  async listen (requestId, nonces) {
    const end = performance.now() + this.times.replyMs
    for (;;) {
      while (this.inbox.length) {
        const reply = parse(this.inbox.shift().toString())
        if (!isObject(reply) || reply.requestId !== requestId) continue
        if (this.keys.shown || nonces.includes(reply.nonce)) return reply
      }
      if (!this.client.connected) throw new Error('the connection is gone')
      const left = end - performance.now()
      if (left <= 0) return null
      const timer = new AbortController()
      await Promise.race([new Promise((resolve) => { this.wake = resolve }),
        sleep(left, null, { signal: timer.signal }).catch(() => {})])
      timer.abort()
    }
  }

  // What ends the exchange, null for "try later"; a refusal counts only if proved.
  judge (reply, offer) {
    tell(`answer ${reply.code} ${reply.reason}`)
    if (offer && reply.reason === 'offer') {
      const body = this.keys.open(reply)
      return isOffer(body, this.device, reply.requestId) ? body : null
    }
    const proved = this.keys.proves(reply)
    if (reply.reason === 'superseded' && (proved || this.keys.shown)) throw new Superseded()
    if (proved && STOP.includes(reply.reason)) throw new Stopped(reply.reason)
    return !offer && ['confirmed', 'noted'].includes(reply.reason) && (proved || this.keys.shown) ? reply : null
  }

  claim (requestId) {
    return this.exchange('request', (nonce) =>
      this.keys.sign({ requestId }, nonce, 'request', requestId, nonce, '', '', '', ''))
  }

  ack ({ requestId, generation }, result) {
    return this.exchange('ack', (nonce) =>
      this.keys.sign({ requestId, generation, result }, nonce, 'ack', requestId, nonce, generation, result, ''))
  }
}

function isOffer (body, device, requestId) {
  const credential = body?.credentials
  return isObject(body) && isObject(credential) && isObject(body.broker) &&
    body.requestId === requestId && body.reason === 'offer' && Number.isInteger(body.generation) &&
    credential.type === 'password' && credential.clientId === device.clientId &&
    [credential.username, credential.password].every((text) => typeof text === 'string' && text) &&
    /^mqtts?:\/\//.test(body.broker.url) && Array.isArray(body.topics?.publish)
}

// --- the new identity

async function logIn ({ credentials, broker, topics }) { // connect to the device broker and say hello
  const { clientId, username, password } = credentials
  const client = await connect(broker.url, { clientId, username, password }, broker.ca)
  try {
    for (const may of topics.publish.slice(0, 1)) {
      await client.publishAsync(may.replace(/[#+]/g, 'hello'), 'hello', { qos: 1 })
    }
  } finally {
    client.end(true)
  }
}

// False only when the device broker itself said no three times; an absent one says nothing about the credential.
async function tryLogin (credential, firstPause) {
  let refused = 0
  let unreached = 0
  while (refused < 3 && unreached < 3) {
    try {
      await logIn(credential)
      tell('logged in')
      return true
    } catch (error) {
      if (REFUSED.includes(error.code)) refused++
      else unreached++
      tell(`no login: ${error.message}`)
      await sleep(Math.random() * firstPause * 2 ** (refused + unreached - 1))
    }
  }
  return refused < 3
}

async function main (directory) {
  const storage = new Storage(directory)
  let credential = storage.load()
  while (!credential?.confirmed && storage.device.password) {
    const session = new Provisioning(storage.device)
    try {
      if (!credential) {
        credential = await session.claim(`r-${randomBytes(4).toString('hex')}`)
        storage.store(credential)
        tell(`stored generation ${credential.generation}`)
      }
      const result = await tryLogin(credential, session.times.firstPauseMs) ? 'stored' : 'failed'
      const reply = await session.ack(credential, result)
      if (result === 'failed') throw new Superseded() // a new claim, with a new requestId
      if (reply.forget === true && session.keys.proves(reply)) {
        storage.forget() // before the mark: cut here, a device without a login knows that it was told so
        tell('forgot the provisioning login')
      }
      credential = { ...credential, confirmed: true }
      storage.store(credential)
      tell('confirmed')
    } catch (error) {
      if (!(error instanceof Superseded)) throw error
      storage.drop()
      credential = null
    } finally {
      session.close()
    }
  }
  if (!credential) throw new Stopped('there is neither a credential nor a provisioning login')
  while (!await tryLogin(credential, 5_000));
  tell('online')
}

try {
  await main(process.argv[2])
} catch (error) {
  if (!(error instanceof Stopped)) throw error
  tell(`stopped: ${error.message}`)
  process.exitCode = 3
}
