package core

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Service accepts connections and fans out messages. Make one with New, start it with Run, mount it as an http.Handler or
// through an adapter, and end it with Shutdown. The verbs of App are its own too, for the app "". All methods may be
// called concurrently.
type Service struct {
	*app // the app ""

	// Websocket serves connections in the original's spelling: service.Websocket.HandleRequest(w, r).
	Websocket Door

	id       string
	made     time.Time
	opts     options
	driver   Driver
	hub      hub
	foreign  foreign
	crowds   crowds
	replaced replacements
	away     away
	sparing  sparing
	peerLog  peerLog
	debt     debt
	stats    counters

	tick           atomic.Uint32 // of the sweeper
	ticksPerSecond uint32

	drainers, leavers, keepers sync.WaitGroup // keepers: sweeper and janitor
	stop                       chan struct{}  // ends the keepers
	recheck                    chan struct{}  // holds one: sessions are to be looked at
	refusing                   chan struct{}  // slots for refusals by close
	authing                    chan struct{}  // slots for calls of Auth, or nil

	link   atomic.Pointer[Link]            // nil before the driver is opened and after Shutdown
	shared atomic.Pointer[context.Context] // see soon; nil unless the sweeper runs

	mu        sync.Mutex // guards the rest
	state     state
	failure   error         // of Run
	opening   chan struct{} // not nil while the driver is being opened, closed then
	providers map[string]*Provider
	clients   int           // Attached and not ended
	occupied  occupancy     // by clients, and by handshakes under way
	emptied   chan struct{} // closed when clients falls to spared; nil when nobody waits
	spared    int
	joined    bool          // Shutdown has begun to wait for leavers: no more
	downed    chan struct{} // closed when Shutdown is done
	outcome   error         // of Shutdown
}

// app is App under a name that leaves Service.App free to be a method.
type app = App

type state int

const (
	stateNew state = iota
	stateRunning
	stateEnding
	stateEnded
)

// New makes a service over a driver: drivers.NewMemoryDriver() for one process, drivers.NewRedisDriver for many nodes.
// Options are a *Provider, which is what the app does, and those of the WithX functions. Nothing runs yet.
func New(driver Driver, opts ...Option) *Service {
	s := &Service{
		id: rand.Text()[:16], made: time.Now(), opts: defaults(), driver: driver, providers: map[string]*Provider{},
		stop: make(chan struct{}), recheck: make(chan struct{}, 1), refusing: make(chan struct{}, refusals),
		debt: debt{over: make(chan struct{}, 1)},
	}
	s.app = &App{s: s}
	s.Websocket.s = s
	for _, o := range opts {
		if o != nil {
			o.apply(s)
		}
	}
	s.opts.log = slog.New(guardedHandler{s.opts.log.Handler(), new(jam)})
	s.debt.limit = int64(s.opts.limits.outboxBytes)
	s.hub.init(s)
	s.ticksPerSecond = uint32(max(1, time.Second/s.opts.tickOf()))
	s.tick.Store(1 << 16) // so that "long ago" can be expressed
	return s
}

// Run connects the driver and starts the service; it does not wait for connections but returns. A second call does
// nothing. A failure is returned, logged, and the text of every refusal from then on; Run may then be called again.
func (s *Service) Run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*opTimeout)
	defer cancel()
	if err := s.beginOpening(ctx); err != nil {
		return err
	}
	defer s.endOpening()
	if s.stateNow() == stateRunning {
		return nil
	}
	err := errors.Join(s.opts.bad...)
	var link Link
	if err == nil {
		link, err = s.open(ctx, node{s})
	}
	if err != nil {
		s.opts.log.Error("gows: the service does not run", "err", err)
	}
	if err == nil && !s.start(link) {
		s.closeLink(link)
		return ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	return err
}

// start makes the service run over link, unless Shutdown was faster than the driver.
func (s *Service) start(link Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= stateEnding {
		return false
	}
	publisher := s.link.Swap(&link)
	s.state = stateRunning
	running.add(s)
	// All end when stop is closed; Shutdown waits for them.
	s.keepers.Go(func() { s.sweep(s.opts.tickOf()) })
	s.keepers.Go(s.keepDebt)
	ctx, cancel := context.WithCancel(context.Background())
	s.keepers.Go(func() {
		<-s.stop
		cancel()
	})
	s.keepers.Go(func() { s.keepHouse(ctx, link) })
	s.keepers.Go(func() { s.keepSessions(ctx, link) })
	if publisher != nil { // what the service was so far
		s.keepers.Go(func() { s.closeLink(*publisher) })
	}
	return true
}

func (s *Service) closeLink(link Link) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if err := link.Close(ctx); err != nil {
		s.opts.log.Warn("gows: close the driver", "err", err)
	}
}

func (s *Service) stateNow() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// beginOpening waits until nobody else opens the driver.
func (s *Service) beginOpening(ctx context.Context) error {
	for {
		s.mu.Lock()
		opening, state := s.opening, s.state
		if opening == nil && state < stateEnding {
			s.opening = make(chan struct{})
		}
		s.mu.Unlock()
		switch {
		case state >= stateEnding:
			return ErrClosed
		case opening == nil:
			return nil
		}
		select {
		case <-opening:
		case <-ctx.Done():
			return fmt.Errorf("%w: the driver is being opened", ErrUnavailable)
		}
	}
}

func (s *Service) endOpening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.opening)
	s.opening = nil
}

// open opens the driver, for this node or, with nil, for publishing alone.
func (s *Service) open(ctx context.Context, n Node) (Link, error) {
	if s.driver == nil {
		return nil, errors.New("gows: core.New was given no driver: use drivers.NewMemoryDriver()")
	}
	link, err := guardedDriver{s.driver, s.opts.log}.Open(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("gows: open the driver: %w", err)
	}
	return link, nil
}

// linked returns the link to the driver. On a service that never ran it opens one for publishing alone.
func (s *Service) linked(ctx context.Context) (Link, error) {
	if link := s.link.Load(); link != nil {
		return *link, nil
	}
	if err := s.beginOpening(ctx); err != nil {
		return nil, err
	}
	defer s.endOpening()
	if link := s.link.Load(); link != nil {
		return *link, nil
	}
	link, err := s.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	ended := s.state >= stateEnding
	if !ended {
		s.link.Store(&link)
	}
	s.mu.Unlock()
	if ended { // Shutdown was faster than the driver
		s.closeLink(link)
		return nil, ErrClosed
	}
	return link, nil
}

// keepHouse does every second what calls the driver: unsubscribing what nobody is in, and the counts of crowds.
// ctx ends when the service does, so that a driver which hangs does not hold up Shutdown.
func (s *Service) keepHouse(ctx context.Context, link Link) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-ticker.C:
			round, cancel := context.WithTimeout(ctx, opTimeout)
			if err := s.hub.sweepQuiet(round, link, now); err != nil && ctx.Err() == nil {
				s.opts.log.Warn("gows: janitor", "err", err)
			}
			s.tellCounts(round, link)
			cancel()
			s.away.remind(s.opts.log)
		}
	}
}

// soon returns a context for a driver call whose caller gave none. It ends in opTimeout, or up to a second later: while
// the service runs the sweeper renews one for all, because making one costs more than publishing a message.
func (s *Service) soon() (context.Context, context.CancelFunc) {
	if shared := s.shared.Load(); shared != nil && (*shared).Err() == nil {
		return *shared, func() {}
	}
	return context.WithTimeout(context.Background(), opTimeout)
}

// renewSoon is called by the sweeper, every second.
func (s *Service) renewSoon() {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout+time.Second)
	_ = cancel // calls that began with it go on when the next one is made; its timer ends it
	s.shared.Store(&ctx)
}

// accepts says why no connection is accepted, or nil.
func (s *Service) accepts() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acceptsLocked()
}

func (s *Service) acceptsLocked() error {
	switch {
	case s.state == stateRunning:
		return nil
	case s.failure != nil:
		return refuse(CloseRestart, s.failure.Error())
	case s.state == stateNew:
		return refuse(CloseRestart, errNotRunning.Error())
	}
	return refuse(CloseRestart, "restarting")
}

// beginHandshake counts a handshake in, for as long as it takes, or says why there is to be none.
func (s *Service) beginHandshake(addr netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.acceptsLocked(); err != nil {
		return err
	}
	return s.occupied.add(&s.opts.limits, addr)
}

func (s *Service) endHandshake(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.occupied.remove(addr)
}

// enter counts a connection in, or says why not.
func (s *Service) enter(addr netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.acceptsLocked(); err != nil {
		return err
	}
	if err := s.occupied.add(&s.opts.limits, addr); err != nil {
		return err
	}
	s.clients++
	return nil
}

// beginLeaver counts in a goroutine that Shutdown waits for, unless it waits already.
func (s *Service) beginLeaver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined {
		s.leavers.Add(1)
	}
	return !s.joined
}

// exit counts it out when its last hook has returned.
func (s *Service) exit(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.occupied.remove(addr)
	s.clients--
	s.emptyLocked()
}

func (s *Service) emptyLocked() {
	if s.emptied != nil && s.clients <= s.spared {
		close(s.emptied)
		s.emptied = nil
	}
}

// RegisterProvider sets the provider of an app: "" is the default app, "*" stands for every app without a provider of its
// own. It may be called while the service runs; connections keep the provider they came with. Apps never see each
// other's clients and channels.
func (s *Service) RegisterProvider(app string, provider *Provider) error {
	if provider == nil {
		return fmt.Errorf("gows: the provider of app %q is nil", app)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateEnding || s.state == stateEnded {
		return ErrClosed
	}
	s.providers[app] = provider
	return nil
}

// providerOf returns nil when there is no such app. The app "" is always there: without a provider nobody gets in.
func (s *Service) providerOf(app string) *Provider {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case app == "*": // a pattern, not a name
		return nil
	case s.providers[app] != nil:
		return s.providers[app]
	case app != "" && s.providers["*"] != nil:
		return s.providers["*"]
	case app == "":
		return &Provider{}
	}
	return nil
}

// App returns the verbs of an app. It need not have a provider here.
func (s *Service) App(name string) *App {
	if name == "" {
		return s.app
	}
	return &App{name: name, s: s}
}

// Shutdown ends the service: it accepts nobody any more, closes every connection with 3001 behind what was sent before, more
// than 1,000 of them over WithShutdownWindow, waits until all hooks have returned, offline included, and closes the driver. It waits until ctx ends, or 30 s when ctx has no
// deadline, and then returns an error that says how many hooks still run. Called inside a hook it does not wait for
// that one. Further calls wait for the first and return what it returned.
func (s *Service) Shutdown(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
	}
	s.mu.Lock()
	if insideHook() {
		s.spared++ // it waits for this call, which therefore must not wait for it
		s.emptyLocked()
	}
	if s.downed != nil {
		downed := s.downed
		s.mu.Unlock()
		select {
		case <-downed:
			return s.outcome
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.downed = make(chan struct{})
	ran := s.state == stateRunning
	s.state = stateEnding
	emptied := make(chan struct{})
	s.emptied = emptied
	s.emptyLocked()
	s.mu.Unlock()
	running.remove(s)
	if ran {
		s.closeAll(ctx)
		select {
		case <-emptied:
		case <-ctx.Done():
			s.outcome = s.stuck(ctx.Err())
		}
		close(s.stop)
		s.keepers.Wait()
		s.hub.close()
		s.mu.Lock()
		s.joined = true
		spared := s.spared
		s.mu.Unlock()
		if s.outcome == nil && spared == 0 {
			s.leavers.Wait()
			s.drainers.Wait()
		}
	}
	s.mu.Lock()
	s.state = stateEnded
	s.mu.Unlock()
	if link := s.link.Swap(nil); link != nil {
		if deadline, _ := ctx.Deadline(); ctx.Err() != nil || time.Until(deadline) < closeDriver {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), closeDriver)
			defer cancel()
		}
		if err := (*link).Close(ctx); err != nil {
			s.outcome = errors.Join(s.outcome, fmt.Errorf("gows: close the driver: %w", err))
		}
	}
	close(s.downed)
	return s.outcome
}

// closeDriver is what the driver has for its end even when the time of Shutdown is over.
const closeDriver = time.Second

const (
	calmClients = 1000                   // up to so many are closed at once
	closeEvery  = 100 * time.Millisecond // of more, a part is closed so often
	settling    = time.Second            // that a part waits for the driver at most
)

// closeAll closes every connection, many of them over the window, each behind what was pushed before.
func (s *Service) closeAll(ctx context.Context) {
	var clients []*Client
	for i := range shards {
		clients = s.hub.clients(i, clients)
	}
	parts := 1
	if window := s.window(ctx); len(clients) > calmClients && window > closeEvery {
		parts = int(window / closeEvery)
	}
	ticker := time.NewTicker(closeEvery)
	defer ticker.Stop()
	away := false
	for i := range parts {
		if i > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done(): // the rest at once
			}
		}
		part := clients[len(clients)*i/parts : len(clients)*(i+1)/parts]
		away = away || !s.settle(ctx, part)
		s.hub.flush(ctx)
		for _, c := range part {
			_ = c.shut(CloseRestart, "restarting") // fails for those that have ended
		}
	}
}

// settle waits until all is here that the driver has accepted for clients so far: it confirms a subscription behind what it
// sent before, also one to what is subscribed already.
func (s *Service) settle(ctx context.Context, clients []*Client) bool {
	link := s.link.Load()
	if link == nil {
		return false
	}
	topics := map[Topic]bool{}
	for _, c := range clients {
		topics[Topic{App: c.App}] = true
		for _, name := range c.Channels() {
			topics[Topic{c.App, name}] = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	return (*link).Subscribe(ctx, slices.Collect(maps.Keys(topics))...) == nil
}

// window is over how long the closes are spread: what comes after them needs time, too.
func (s *Service) window(ctx context.Context) time.Duration {
	window := s.opts.spread
	if deadline, ok := ctx.Deadline(); ok {
		window = min(window, time.Until(deadline)/2)
	}
	return window
}

func (s *Service) stuck(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("gows: shutdown: %d connections have not ended, %d hooks still run: %w",
		s.clients, s.stats.hooks.Load(), cause)
}

// insideHook reports whether the calling goroutine runs a hook.
func insideHook() bool {
	pcs := make([]uintptr, 256)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "core.(*Client).call") {
			return true
		}
		if !more {
			return false
		}
	}
}

// millis is a coarse clock for what must be small.
func (s *Service) millis() uint32 { return uint32(time.Since(s.made).Milliseconds()) }

// running are the services that run, oldest first.
var running registry

type registry struct {
	mu       sync.Mutex // guards services
	services []*Service
}

func (r *registry) add(s *Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services = append(r.services, s)
}

func (r *registry) remove(s *Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services = slices.DeleteFunc(r.services, func(other *Service) bool { return other == s })
}

// Default returns the service that has been running longest in this process, or nil. It is what websocket.Push uses.
func Default() *Service {
	running.mu.Lock()
	defer running.mu.Unlock()
	if len(running.services) == 0 {
		return nil
	}
	return running.services[0]
}
