// Package websocket is go-ws under its original import path: aliases of package core, and Push on the default service.
//
//	import websocket "github.com/duxweb/go-ws"
//
// See package core for what everything does.
package websocket

import (
	"errors"

	"github.com/duxweb/go-ws/core"
)

type (
	// Service is core.Service.
	Service = core.Service
	// App is core.App.
	App = core.App
	// Client is core.Client.
	Client = core.Client
	// Message is core.Message.
	Message = core.Message
	// Provider is core.Provider.
	Provider = core.Provider
	// Option is core.Option.
	Option = core.Option
	// PushOption is core.PushOption.
	PushOption = core.PushOption
	// Handshake is core.Handshake.
	Handshake = core.Handshake
	// Member is core.Member.
	Member = core.Member
	// Rules is core.Rules.
	Rules = core.Rules
	// Stats is core.Stats.
	Stats = core.Stats
	// Error is core.Error.
	Error = core.Error
	// CloseError is core.CloseError.
	CloseError = core.CloseError
	// Driver is core.Driver.
	Driver = core.Driver
)

// The events of Provider.Event.
const (
	EventOnline  = core.EventOnline
	EventOffline = core.EventOffline
	EventPing    = core.EventPing
)

// New is core.New.
func New(driver Driver, opts ...Option) *Service { return core.New(driver, opts...) }

// Push pushes a payload to channels of the default service, which is the first one that is running in this process. It
// returns what Service.Push returns, and an error when no service runs. It may be called concurrently.
func Push(channels []string, payload any, opts ...PushOption) error {
	service := core.Default()
	if service == nil {
		return errors.New("gows: websocket.Push: no service is running: call service.Run first")
	}
	return service.Push(channels, payload, opts...)
}
