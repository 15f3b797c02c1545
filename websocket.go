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

// Service and the others are the types of package core, which documents them.
type (
	Service    = core.Service
	App        = core.App
	Client     = core.Client
	Message    = core.Message
	Provider   = core.Provider
	Option     = core.Option
	PushOption = core.PushOption
	Handshake  = core.Handshake
	Member     = core.Member
	Rules      = core.Rules
	Stats      = core.Stats
	Error      = core.Error
	CloseError = core.CloseError
	Driver     = core.Driver
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
