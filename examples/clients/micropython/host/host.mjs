// Runs provision.py in MicroPython's WebAssembly port, as a board would:  node host.mjs DIRECTORY
//
// MicroPython blocks, Node does not: it runs in a worker, and each call of its board (board.py) waits there until this
// thread has carried it out. DIRECTORY is its flash. With MEMORY=1 it tells at the end how
// many bytes of heap were in use at most, client and umqtt included, looked at after a collection at each step.

import { createCipheriv, randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, receiveMessageOnPort, Worker, workerData, MessageChannel } from 'node:worker_threads'

const here = dirname(fileURLToPath(import.meta.url))

function board (directory) { // what the board can do; each returns a value or a promise of one
  const sockets = []
  const path = (name) => join(directory, name)
  return {
    connect: (host, port) => new Promise((resolve) => {
      const socket = connect({ host, port, noDelay: true })
      const held = { socket, bytes: Buffer.alloc(0), ended: false, wake: () => {} }
      socket.on('data', (data) => { held.bytes = Buffer.concat([held.bytes, data]); held.wake() })
      socket.once('connect', () => resolve(sockets.push(held) - 1))
      for (const end of ['end', 'close', 'error']) socket.on(end, () => { held.ended = true; held.wake(); resolve(-1) })
    }),
    write: (id, hex) => sockets[id].ended ? false : (sockets[id].socket.write(Buffer.from(hex, 'hex')), true),
    read: async (id, count, blocking) => {
      const held = sockets[id]
      while (blocking && !held.bytes.length && !held.ended) await new Promise((resolve) => { held.wake = resolve })
      if (!held.bytes.length) return held.ended ? '' : 'none'
      const found = held.bytes.subarray(0, count)
      held.bytes = held.bytes.subarray(count)
      return found.toString('hex')
    },
    close: (id) => { sockets[id]?.socket.end(); return true },
    load: (name) => existsSync(path(name)) ? readFileSync(path(name)).toString('hex') : 'none',
    save: (name, hex) => {
      const file = openSync(path(name), 'w', 0o600)
      writeSync(file, Buffer.from(hex, 'hex'))
      fsyncSync(file)
      closeSync(file)
      return true
    },
    rename: (old, name) => { renameSync(path(old), path(name)); return true },
    random: (count) => randomBytes(count).toString('hex'),
    encrypt: (key, mode, hex) => { // mode 1: single blocks
      if (mode !== 1) throw new Error('only ECB is lent')
      const cipher = createCipheriv('aes-256-ecb', Buffer.from(key, 'hex'), null).setAutoPadding(false)
      return Buffer.concat([cipher.update(Buffer.from(hex, 'hex')), cipher.final()]).toString('hex')
    },
    tell: (line) => { process.stderr.write(`${line}\n`); return true }
  }
}

if (isMainThread) {
  const parts = board(process.argv[2])
  const flag = new Int32Array(new SharedArrayBuffer(4))
  const { port1, port2 } = new MessageChannel()
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { flag, port: port2 }, transferList: [port2] })
  worker.on('message', async ([name, ...values]) => {
    port1.postMessage(await parts[name](...values))
    Atomics.store(flag, 0, 1)
    Atomics.notify(flag, 0)
  })
  worker.on('exit', (code) => process.exit(code))
  worker.on('error', (error) => { process.stderr.write(`${error.stack}\n`); process.exit(1) })
} else {
  const { flag, port } = workerData
  const ask = (...call) => {
    Atomics.store(flag, 0, 0)
    parentPort.postMessage(call)
    Atomics.wait(flag, 0, 0)
    return receiveMessageOnPort(port).message
  }
  globalThis.bridge = Object.fromEntries(Object.keys(board('')).map((name) => [name, (...values) => ask(name, ...values)]))
  const { loadMicroPython } = await import('@micropython/micropython-webassembly-pyscript/micropython.mjs')
  const board_ = await loadMicroPython({ heapsize: 256 * 1024, linebuffer: true, stdout: (line) => ask('tell', line) })
  for (const folder of ['/lib', '/lib/umqtt']) board_.FS.mkdir(folder)
  const files = { '/lib/board.py': 'board.py', '/lib/umqtt/simple.py': 'umqtt/simple.py', '/lib/provision.py': '../provision.py' }
  for (const [to, from] of Object.entries(files)) board_.FS.writeFile(to, readFileSync(join(here, from)))
  const measured = `
import gc
gc.collect()
before, most = gc.mem_alloc(), [0]
import provision
tell = provision.tell
def watch(step):
    gc.collect()
    most[0] = max(most[0], gc.mem_alloc() - before)
    tell(step)
provision.tell = watch
provision.run("/flash")
tell("memory {}".format(most[0]))`
  try {
    board_.runPython('import sys\nsys.path.append("/lib")\nimport board')
    board_.runPython(process.env.MEMORY ? measured : 'import provision\nprovision.run("/flash")')
  } catch (error) {
    ask('tell', error.type === 'Stopped' ? `stopped: ${error.message}` : error.message)
    process.exitCode = error.type === 'Stopped' ? 3 : 1
  }
}
