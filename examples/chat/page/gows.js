// gows.js keeps a page connected to a go-ws server. One file, no dependency, no build step: copy it and change it.
//
//   const ws = connect('/ws', { token: () => signIn(), onstate: (state, words) => show(words) })
//   ws.subscribe('room:1', m => ...)    // m.type: subscribed, refused, message, join, leave, count, gap, unsubscribed
//   const list = await ws.request({ type: 'history', channel: 'room:1' })    // rejects with an Error that has a code
//
// Subscriptions outlive connections, messages do not (delivery is at most once): after every 'subscribed' and every
// 'gap' fetch what may have been missed. token is asked before every attempt and may return a promise. Where it throws,
// the attempt has failed and the next one follows, unless the error has the code of a close that is final, such as 3500.
// The token travels as a subprotocol: a query would end up in access logs.
const BASE = 1000, CAP = 20_000   // ms: attempt n waits random(0..1) * min(CAP, BASE * 2^n), so all of CAP is used
const ANSWER = 10_000             // ms that a connection or an answer may take
const PONG = 5000                 // ms from a ping to its pong before the link counts as dead
const QUIET = 40_000              // ms without a word before we ping: the server's own pings are hidden from scripts

// The codes after which coming back would not help. 1002, 1003, 1007-1009: this side said something wrong and would
// say it again. 3500-3999: the server says no. 4000-4999 are your application's and taken as a no, too, since a loop
// of reconnects would hide it. All others come back: 1000, 1001, 1006 (no close frame arrived), 1011-1014, 3000-3499.
const final = code => [1002, 1003, 1007, 1008, 1009].includes(code) || code >= 3500

const failure = (code, text) => Object.assign(new Error(text), { code })

// A subprotocol has no room for most characters, so the token is base64url there. The server answers with gows alone.
const bytes = text => String.fromCharCode(...new TextEncoder().encode(text))
const base64url = text => btoa(bytes(text)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
const protocols = token => ['gows', 'gows.bearer.' + base64url(token)]

export function connect(url, { token = () => '', onstate = () => {}, onmessage = () => {} } = {}) {
  const channels = new Map(), pending = new Map()   // channel -> handler, id -> what awaits the answer
  const mine = Math.random().toString(36).slice(2), life = new AbortController()
  let socket, state, timer, attempts = 0, ids = 0, heard = 0

  const tell = (now, words, detail = {}) => onstate(state = now, words, detail)
  const ready = () => socket?.readyState === WebSocket.OPEN

  async function open() {
    if (life.signal.aborted) return
    clearTimeout(timer)
    const attempt = timer = setTimeout(lost, ANSWER, 1006, 'the server does not answer')
    tell('connecting', 'connecting')
    try {
      const proof = await token()
      if (attempt !== timer) return   // closed or given up meanwhile
      socket = new WebSocket(new URL(url, location.href).href.replace(/^http/, 'ws'), protocols(proof))
    } catch (error) { return attempt === timer && lost(final(error.code) ? error.code : 1006, error.message) }
    socket.onopen = () => { probe(); channels.forEach(join) }
    socket.onclose = event => lost(event.code, event.reason)
    socket.onmessage = event => receive(JSON.parse(event.data))
  }

  function receive(m) {
    heard = Date.now()
    if (state !== 'connected') {   // The first message, the pong at the latest, is what resets the backoff. An open
      clearTimeout(timer)          // socket proves nothing: a server that refuses opens it, too, to say why.
      attempts = 0
      tell('connected', 'connected')
    }
    const asked = ['receive', 'error', 'pong'].includes(m.type) && pending.get(m.id)
    if (asked) return m.type === 'error' ? asked.reject(failure(m.code, m.message)) : asked.resolve(m.data)
    const handler = channels.get(m.channel) ?? onmessage
    if (m.type === 'unsubscribed') channels.delete(m.channel)
    handler(m)
  }

  function lost(code, reason) {
    timer = clearTimeout(timer)
    if (socket) socket.onopen = socket.onclose = socket.onmessage = null
    socket = socket?.close()   // forgotten at once: a dead link takes a minute to notice
    for (const asked of pending.values()) asked.reject(failure(503, 'the connection was lost'))
    if (final(code)) { life.abort(); return tell('closed', `closed: ${reason || code}`, { code, reason }) }
    const wait = Math.random() * Math.min(CAP, BASE * 2 ** attempts++)
    timer = setTimeout(open, wait)
    tell('waiting', `reconnecting in ${Math.ceil(wait / 1000)} s`, { code, reason, wait })
  }

  const request = (message, limit = ANSWER) => new Promise((resolve, reject) => {
    if (!ready()) return reject(failure(503, 'not connected'))
    const id = message.id ?? newID(), settle = end => result => { clearTimeout(late); pending.delete(id); end(result) }
    const late = setTimeout(() => settle(reject)(failure(504, 'no answer came')), limit)
    pending.set(id, { resolve: settle(resolve), reject: settle(reject) })
    socket.send(JSON.stringify({ ...message, id }))
  })

  function join(handler, channel) {
    const current = () => ready() && channels.get(channel) === handler   // else the next connection asks again
    request({ type: 'subscribe', channel }).then(() => current() && handler({ type: 'subscribed', channel }), error => {
      if (!current()) return
      if (error.code >= 500) return setTimeout(() => current() && join(handler, channel), BASE * 5)
      channels.delete(channel)
      handler({ type: 'refused', channel, code: error.code, message: error.message })
    })
  }

  const newID = () => `${mine}-${++ids}`   // unlike any other page's; crypto.randomUUID is missing on plain http
  const probe = () => request({ type: 'ping' }, PONG).catch(e => e.code === 504 && lost(1006, 'the link was dead'))
  const wake = () => ready() ? probe() : state === 'waiting' && open()   // after sleep, or from another network
  for (const event of ['online', 'pageshow']) addEventListener(event, wake, life)
  document.addEventListener('visibilitychange', () => document.hidden || wake(), life)
  const watch = setInterval(() => ready() && Date.now() - heard > QUIET && probe(), QUIET / 2)
  life.signal.onabort = () => clearInterval(watch)
  queueMicrotask(open)
  return { request, newID, close: () => lost(3500, 'by this page'),
    subscribe: (channel, handler) => { channels.set(channel, handler); if (ready()) join(handler, channel) },
    unsubscribe: channel => channels.delete(channel) && request({ type: 'unsubscribe', channel }).catch(() => {}) }
}
