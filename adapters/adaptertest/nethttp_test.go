package adaptertest_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/duxweb/go-ws/adapters/adaptertest"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// TestNetHTTP shows that the suite asks nothing of adapters which the core does not do by itself.
func TestNetHTTP(t *testing.T) { adaptertest.Run(t, adaptertest.Host{Serve: serve}) }

type serviceKey struct{}

func serve(t testing.TB, service *core.Service, l net.Listener) {
	t.Helper()
	mux := http.NewServeMux()
	completed := func(complete func(r *http.Request, h *core.Handshake)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			h := core.NewHandshake(r)
			complete(r, h)
			service.Serve(w, r, h)
		}
	}
	pushed := func(w http.ResponseWriter, r *http.Request) {
		shared, _ := r.Context().Value(serviceKey{}).(*core.Service)
		w.WriteHeader(adaptertest.Pushed(shared))
	}
	mux.Handle("/ws", service)
	mux.Handle("/context", completed(func(r *http.Request, h *core.Handshake) {
		h.Token = cmp.Or(r.Header.Get("X-Other"), r.Header.Get("X-Token"))
	}))
	mux.HandleFunc("/identity", func(w http.ResponseWriter, r *http.Request) {
		if user := r.Header.Get("X-User"); user != "" {
			r = r.WithContext(core.ContextWithIdentity(r.Context(), map[string]any{"client_id": user}))
		}
		service.ServeHTTP(w, r)
	})
	mux.HandleFunc("/nameless", func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(w, r.WithContext(core.ContextWithIdentity(r.Context(), map[string]any{"role": "admin"})))
	})
	mux.Handle("/apps/{app}", completed(func(r *http.Request, h *core.Handshake) {
		h.App, h.Token, h.Data = r.PathValue("app"), r.Header.Get("X-Token"), map[string]any{"lang": r.Header.Get("X-Lang")}
	}))
	mux.HandleFunc("/expired", func(w http.ResponseWriter, r *http.Request) {
		service.Refuse(w, r, core.CloseExpired, "the token has expired")
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, core.Token(r.Header, r.URL.Query()))
	})
	mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) {
		pushed(w, r.WithContext(context.WithValue(r.Context(), serviceKey{}, service)))
	})
	mux.HandleFunc("/nobody", pushed)
	mux.Handle("/nil", (*core.Service)(nil))
	server := &http.Server{Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
