// The chat's page. gows.js keeps the connection; this file shows what comes over it. All text goes through textContent.
import { connect } from './gows.js'

const ROOMS = ['lobby', 'go', 'random', 'private']
const KEPT = 50                          // messages the server remembers of a room
const LINES = 500                        // lines on screen; older ones go
const TOGETHER = 5 * 60_000              // ms: messages of one person this close share a heading
const $ = id => document.getElementById(id)
const narrow = matchMedia('(max-width: 860px)')

let ws, me = '', online = false
let room = '', wanted = ''               // the room on screen; the one asked for, until the server has answered
let settled = false                      // whether the room on screen has been caught up with before
let atEnd = true                         // whether the log is scrolled to its end, where it then stays
let moves = 0, unread = 0, countdown, noticeTimer
const outbox = new Map()                 // id -> own message that has not come back yet: {channel, text, lost, item}
const shown = new Map()                  // time -> item; a message's time is unique in its room
const people = new Map()                 // name -> item

// ---- connection ----

// login asks for a token; in this demo a name is enough. What the server refuses stays refused, which 3500 says.
async function login(name) {
  const answer = await fetch('/login', { method: 'POST', body: new URLSearchParams({ name }) })
  const text = (await answer.text()).trim()
  if (answer.ok) return text
  throw Object.assign(new Error(text), answer.status < 500 && answer.status !== 429 && { code: 3500 })
}

function start(name) {
  if (name !== me) outbox.clear()
  me = name
  room = wanted = ''
  sessionStorage.setItem('name', me)
  $('refusal').textContent = ''
  $('me').replaceChildren(avatar(me), element('span', { className: 'who' }, me))
  const before = ws
  const mine = ws = connect('/ws', {
    token: () => login(name),
    onstate: (...state) => mine === ws && showState(...state),
    onmessage: told,
  })
  before?.close()
  enter('lobby')
}

// told is what concerns no room. Which node this is, only servers say that are several.
function told(m) {
  if (m.type === 'notice') notice(m.message, 'news')
  if (m.type === 'node') $('node').textContent = m.message
}

function showState(state, words, { code, reason, wait = 0 }) {
  online = state === 'connected'
  clearInterval(countdown)
  if (!online) $('node').textContent = ''
  $('state').dataset.state = state
  $('state').title = reason || ''
  if (state !== 'waiting') $('state').textContent = words
  else {
    // The seconds tick for the eye only: a screen reader hears "reconnecting" once.
    const end = Date.now() + wait, seconds = element('span', { ariaHidden: 'true' })
    const tick = () => { seconds.textContent = ` in ${Math.max(1, Math.ceil((end - Date.now()) / 1000))} s` }
    $('state').replaceChildren('reconnecting', seconds)
    tick()
    countdown = setInterval(tick, 200)
  }
  if (online) show('chat')
  else if (state === 'waiting' && $('chat').hidden) $('refusal').textContent = `No answer from the server: ${words}`
  if (state === 'closed') closed(code, reason)
}

// closed for good: a name that was not accepted leads back to the door, everything else says what happened.
function closed(code, reason) {
  sessionStorage.removeItem('name')
  if (code === 3500) return door(reason === 'by this page' ? '' : reason)
  $('over-text').textContent = code === 3503 ? `You were ${reason}` : reason || `The connection ended (${code})`
  if (!$('over').open) $('over').showModal()
}

function door(refusal = '') {
  show('door')
  $('refusal').textContent = refusal
  $('name').value = me
  $('name').select()
  $('name').focus()
}

function show(part) {
  if (!$(part).hidden) return
  for (const id of ['door', 'chat']) $(id).hidden = id !== part
  compose()
}

// compose puts the cursor where one types, unless that would raise a phone's keyboard over the room.
function compose() {
  if (narrow.matches) return
  $('text').blur()   // Chromium gives a field its focus back when a dialog closes, but no cursor
  $('text').focus()
}

// ---- rooms ----

// enter asks for a room and stays in the present one until the server has let us in.
function enter(name) {
  notice()
  if (wanted && wanted !== room && wanted !== name) ws.unsubscribe(`room:${wanted}`)
  wanted = name
  if (name !== room) ws.subscribe(`room:${name}`, m => hear(name, m))
  drawRooms()
}

function hear(name, m) {
  if (m.type === 'refused' || m.type === 'unsubscribed') return turnedAway(name, m)
  if (m.type === 'subscribed' && name === wanted && name !== room) moveTo(name)
  if (name !== room) return
  switch (m.type) {
    case 'gap': event('messages may have been missed')   // and on
    case 'subscribed': return catchUp()
    case 'message': return receive(m)
    case 'join':
      moves++
      if (!people.has(m.client)) event(`${m.client} joined`)
      return arrived(m.client)
    case 'leave':
      moves++
      if (people.has(m.client)) event(`${m.client} left`)
      return left(m.client)
    case 'count': $('count').textContent = m.data.toLocaleString()
  }
}

function moveTo(name) {
  if (room) ws.unsubscribe(`room:${room}`)
  room = name
  settled = false
  shown.clear()
  people.clear()
  $('log').replaceChildren()
  $('people').replaceChildren()
  $('room-title').textContent = name
  $('text').placeholder = `Message ${name}`
  $('curl').replaceChildren(`curl -d hello '${location.origin}`, element('wbr'), `/push?room=${name}'`)
  drawRooms()
  drawTitle()
  for (const [id, own] of outbox) if (own.channel === `room:${name}`) drawOwn(id, own)
}

function turnedAway(name, m) {
  notice(m.message)
  if (name === room) room = ''
  if (name === wanted) wanted = room
  drawRooms()
}

// catchUp runs after every (re)entry: who is here, what was said meanwhile, what of ours did not get through.
async function catchUp() {
  const channel = `room:${room}`
  try {
    const [past] = await Promise.all([ws.request({ type: 'history', channel }), rollCall()])
    if (channel !== `room:${room}`) return
    const missed = past.filter(m => !shown.has(m.meta.time) && !outbox.has(m.id))
    const gap = settled && past.length === KEPT && missed.length === KEPT
    past.forEach(receive)
    if (settled && missed.length) {
      const many = gap ? `${KEPT} or more messages` : missed.length === 1 ? '1 message' : `${missed.length} messages`
      const line = element('li', { className: 'away' }, `${many} while you were away`)
      const first = shown.get(missed[0].meta.time)
      line.dataset.time = first.dataset.time
      first.before(line)
      regroup(first)
    }
    settled = true
    $('empty').hidden = $('log').childElementCount > 0
    for (const [id, own] of outbox) if (own.channel === channel && own.lost) deliver(id, own)
  } catch (error) {
    if (online) notice(error.message)   // else the next connection catches up
  }
}

// rollCall asks who is here, once more if somebody came or went while the answer was under way.
async function rollCall(tries = 3) {
  const name = room, before = moves
  const members = await ws.request({ type: 'presence', channel: `room:${name}` })
  if (name !== room) return
  if (before !== moves && tries > 1) return rollCall(tries - 1)
  const names = new Set(members.map(member => member.client))   // one member per connection, one line per person
  for (const gone of people.keys()) if (!names.has(gone)) left(gone)
  names.forEach(arrived)
}

// ---- people ----

function arrived(name) {
  if (people.has(name)) return
  const kick = element('button', { className: 'kick', type: 'button', ariaLabel: `Kick ${name}` }, 'Kick')
  kick.onclick = () => kickOut(name)
  const item = element('li', {}, avatar(name), element('span', { className: 'who' }, name),
    name === me ? element('span', { className: 'you' }, 'you') : kick)
  item.dataset.name = name
  people.set(name, item)
  const after = [...$('people').children].find(other => order(other.dataset.name, name) > 0)
  $('people').insertBefore(item, after ?? null)
  $('count').textContent = people.size
}

function left(name) {
  people.get(name)?.remove()
  people.delete(name)
  $('count').textContent = people.size
}

const order = (a, b) => (b === me) - (a === me) || a.localeCompare(b)

async function kickOut(name) {
  try {
    const headers = { Authorization: `Bearer ${await login(me)}` }
    const answer = await fetch('/kick?' + new URLSearchParams({ name }), { method: 'POST', headers })
    if (!answer.ok) throw new Error(await answer.text())
  } catch (error) { notice(`${name} was not kicked: ${error.message}`) }
  compose()
}

// ---- messages ----

function say(text) {
  const kick = /^\/kick\s+(.+)$/.exec(text)
  if (kick) return kickOut(kick[1].trim())
  const id = ws.newID(), own = { channel: `room:${room}`, text }
  outbox.set(id, own)
  drawOwn(id, own)
  deliver(id, own)
}

// deliver sends an own message. If the connection is lost on the way, nobody knows whether it arrived: catchUp sees it
// in the history, or sends it again under the same id.
async function deliver(id, own) {
  own.lost = false
  own.item.classList.remove('failed')
  try {
    await ws.request({ id, type: 'message', channel: own.channel, message: own.text })
    own.item.classList.remove('pending')
  } catch (error) {
    if (!outbox.has(id)) return   // it had come back to us before
    own.lost = !online
    if (online) failed(id, own, error.message)
  }
}

function failed(id, own, why) {
  const again = element('button', { type: 'button' }, 'Try again')
  const line = element('p', { className: 'why' }, `Not sent: ${why} `, again)
  again.onclick = () => { line.remove(); deliver(id, own) }
  own.item.classList.add('failed')
  own.item.append(line)
}

function drawOwn(id, own) {
  own.item = message({ client: me, message: own.text })
  own.item.classList.add('pending')
  place(own.item, lastTime())
  toEnd()
}

// receive shows a message once, live or from the history, in the order of their times.
function receive(m) {
  const { time } = m.meta, own = outbox.get(m.id), stay = atEnd
  if (shown.has(time)) return
  const item = own?.item ?? message(m)
  if (own) {
    outbox.delete(m.id)
    item.classList.remove('pending', 'failed')
    item.querySelector('.why')?.remove()
    item.querySelector('time').replaceWith(clock(time))
  }
  shown.set(time, item)
  place(item, time)
  if (stay) toEnd()
  else $('down').hidden = false
  if (document.hidden && settled) { unread++; drawTitle() }
}

function message(m) {
  const item = element('li', { className: 'message' }, avatar(m.client),
    element('p', { className: 'head' }, element('span', { className: 'who' }, m.client ?? 'REST'), ' ', clock(m.meta?.time)),
    element('p', { className: 'text' }, m.message))
  item.classList.toggle('own', m.client === me)
  item.dataset.client = m.client ?? ''
  return item
}

function clock(time = Date.now()) {
  const when = new Date(time), today = when.toDateString() === new Date().toDateString()
  const options = { hour: '2-digit', minute: '2-digit', ...(today ? {} : { weekday: 'short' }) }
  const words = when.toLocaleTimeString([], options)
  return element('time', { dateTime: when.toISOString(), title: when.toLocaleString() }, words)
}

function event(words) {
  const stay = atEnd
  place(element('li', { className: 'event' }, words), lastTime())
  if (stay) toEnd()
}

// lastTime is the server's time of the last line, since this machine's clock may say something else.
const lastTime = () => Number([...$('log').children].findLast(item => !isPending(item))?.dataset.time ?? 0)
const isPending = item => item.classList.contains('pending')

// place puts an item where its time belongs; what is not answered yet stays last. It moves nothing that is in its
// place already: a screen reader would read it again.
function place(item, time) {
  item.dataset.time = time
  const others = [...$('log').children].filter(other => other !== item)
  const later = other => isPending(other) === isPending(item) ? other.dataset.time > time : isPending(other)
  const next = others[others.findLastIndex(other => !later(other)) + 1] ?? null
  if (!item.parentNode || item.nextSibling !== next) $('log').insertBefore(item, next)
  if (others.length >= LINES) {
    shown.delete(Number(others[0].dataset.time))
    others[0].remove()
  }
  $('empty').hidden = true
  regroup(item)
  regroup(item.nextSibling)
}

// regroup leaves the heading out where the same person goes on speaking.
function regroup(item) {
  const before = item?.previousSibling
  item?.classList.toggle('more', item.dataset.client !== undefined && before?.dataset.client === item.dataset.client &&
    item.dataset.time - before.dataset.time < TOGETHER)
}

function toEnd() {
  $('scroll').scrollTop = $('scroll').scrollHeight
  $('down').hidden = atEnd = true
}

// ---- small parts ----

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children)   // strings become text nodes
  return made
}

function avatar(name) {
  const made = element('span', { className: 'avatar', ariaHidden: 'true' }, name ? [...name][0].toUpperCase() : '>_')
  if (name) made.style.setProperty('--hue', [...name].reduce((hue, c) => (hue * 31 + c.codePointAt(0)) % 360, 75))
  made.classList.toggle('rest', !name)
  return made
}

function drawRooms() {
  $('rooms').replaceChildren(...ROOMS.map(name => {
    const button = element('button', { type: 'button' }, name)
    button.dataset.room = name
    button.ariaCurrent = name === room ? 'page' : null
    button.ariaBusy = name === wanted && name !== room ? 'true' : null
    button.onclick = () => { enter(name); compose() }
    return element('li', {}, button)
  }))
}

function drawTitle() {
  document.title = `${unread ? `(${unread}) ` : ''}${room ? `${room} · ` : ''}go-ws chat`
}

function notice(words = '', kind = 'trouble') {
  clearTimeout(noticeTimer)
  $('notice').className = `notice ${kind}`
  $('notice').textContent = words
  if (words) noticeTimer = setTimeout(notice, 10_000)
}

// ---- what the person does ----

$('enter').onsubmit = event => {
  event.preventDefault()
  start($('name').value.trim())
}

$('say').onsubmit = event => {
  event.preventDefault()
  const text = $('text').value.trim()
  if (!text || !room) return
  $('text').value = ''
  notice()
  say(text)
  $('text').focus()
}

$('text').onkeydown = event => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return   // 229: an input method
  event.preventDefault()
  $('say').requestSubmit()
}

$('leave').onclick = () => ws.close()
$('down').onclick = toEnd
$('scroll').onscroll = () => {
  atEnd = $('scroll').scrollHeight - $('scroll').scrollTop - $('scroll').clientHeight < 40
  if (atEnd) $('down').hidden = true
}
new ResizeObserver(() => { if (atEnd) toEnd() }).observe($('scroll'))   // a phone's keyboard, a second line in the composer
$('over').onclose = () => {
  if ($('over').returnValue === 'back') { start(me); compose() } else door()
  $('over').returnValue = ''
}

$('copy').onclick = async () => {
  try {
    await navigator.clipboard.writeText($('curl').textContent)
  } catch {   // no clipboard on plain http: select it, so that one key press copies
    getSelection().selectAllChildren($('curl'))
    if (!document.execCommand('copy')) return
  }
  $('copy').textContent = 'Copied'
  setTimeout(() => { $('copy').textContent = 'Copy' }, 2000)
}

document.onkeydown = event => {
  if ($('chat').hidden || $('over').open) return
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key]
  if (event.altKey && step) {
    event.preventDefault()
    return enter(ROOMS.at((ROOMS.indexOf(wanted || room) + step) % ROOMS.length))
  }
  const typing = event.key.length === 1 && event.key !== ' ' && !event.ctrlKey && !event.metaKey && !event.altKey
  if ((typing || event.key === 'Escape') && event.target !== $('text')) $('text').focus()   // typing works from anywhere
}

document.addEventListener('visibilitychange', () => {
  if (!document.hidden) { unread = 0; drawTitle() }
})

$('here').open = !narrow.matches
narrow.onchange = () => { $('here').open = !narrow.matches }
const known = sessionStorage.getItem('name')   // a reload stays in the chat
if (known) start(known)
else door()
