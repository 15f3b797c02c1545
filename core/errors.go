package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
)

// What the verbs of Service, App and Client return. Compare with errors.Is.
var (
	// ErrClosed is returned by everything called on a client or service that has ended, and by every method of a
	// Client that the service did not make.
	ErrClosed = errors.New("gows: closed: this client or service has ended")
	// ErrOffline is returned by Send, Disconnect, Subscribe and Unsubscribe when no connection of that client id
	// exists on any node.
	ErrOffline = errors.New("gows: the client has no connection")
	// ErrTooLarge is returned when an encoded payload exceeds WithPushBytes.
	ErrTooLarge = errors.New("gows: the payload is too large")
	// ErrUnavailable is returned when the driver, or a full channel, did not take a message or a subscription in time.
	ErrUnavailable = errors.New("gows: unavailable, try again")
	// ErrChannelName is returned for a channel name that is empty, too long, not UTF-8 or holds control characters.
	ErrChannelName = errors.New("gows: bad channel name")
	// ErrTooManyChannels is returned by Sub when the client would exceed WithMaxChannels.
	ErrTooManyChannels = errors.New("gows: too many channels")
)

var errNotRunning = errors.New("gows: service.Run was not called")

// Close codes of the library. 3000-3499 tell a client to reconnect, 3500-3999 not to. 1000-1015 are those of
// RFC 6455 section 7.4.1, 4000-4999 belong to the application.
const (
	CloseGoingAway   = 3000 // this node ends the connection; reconnect
	CloseRestart     = 3001 // the service is shutting down; reconnect
	CloseNoPong      = 3002 // the peer did not answer a ping in time
	CloseTooSlow     = 3003 // the peer reads more slowly than it is written to
	CloseInternal    = 3004 // the server could not serve this now; try again
	CloseExpired     = 3005 // the token expired; reconnect with a new one
	CloseRefused     = 3500 // not with this token
	CloseProtocol    = 3501 // the peer broke the protocol of the envelope
	CloseReplaced    = 3502 // a newer connection of the same client took over (ReplaceOld)
	CloseKicked      = 3503 // disconnected by the server
	CloseTooMany     = 3504 // already connected (RejectNew), or too many connections
	CloseTooManyBad  = 3505 // too many bad messages, or too many at all
	closeNormal      = 1000
	closeWrongFrame  = 1002
	closeUnsupported = 1003
	closeNoStatus    = 1005
	closeAbnormal    = 1006
	closeBadText     = 1007
	closeTooLarge    = 1009
)

// Error is a failure with a code that may be shown to the peer: Code is one of HTTP's, Text is sent as it is.
// Make it with Errorf.
type Error struct {
	Code int
	Text string
	err  error
}

// Errorf returns an error whose code and text go to the client when a hook returns it. In Message, Subscribe and
// Publish, code is one of HTTP's (400-599) and becomes the code of the error answer. In Auth, Authenticate and online it
// decides how the connection is refused: 429 and 5xx close with 3004 "try again", other HTTP codes with 3500, and a code
// from 3000 to 4999 is itself the close code. %w wraps as in fmt.Errorf; the wrapped text is sent too.
func Errorf(code int, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), err: err}
}

func (e *Error) Error() string { return "gows: " + strconv.Itoa(e.Code) + ": " + e.Text }

// Unwrap leads to what Errorf wrapped with %w.
func (e *Error) Unwrap() error { return e.err }

// CloseError says why a connection ended. It is the cause of Client.Context (context.Cause) once the client has ended.
// Code 1005 stands for a close without a code and 1006 for a connection that was lost.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return "gows: closed with code " + strconv.Itoa(e.Code)
	}
	return "gows: closed with code " + strconv.Itoa(e.Code) + ": " + e.Reason
}

// Refusal is why Admit did not let a connection in, for a host to write as its HTTP response.
type Refusal struct { //nolint:errname // it is an answer that can be returned as an error
	Status int         `json:"status"` // HTTP status
	Code   int         `json:"code"`   // the close code a browser would have seen
	Reason string      `json:"reason"` // safe to show
	Header http.Header `json:"-"`      // headers the response must carry, often none
}

func (r *Refusal) Error() string { return "gows: refused: " + strconv.Itoa(r.Status) + " " + r.Reason }

// panicError is what a hook that panicked returns to the code that called it.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprint("gows: panic in a hook: ", e.value) }

// answerFor translates an error of a hook or a verb into the code and text of an error answer. told is false when the
// text was withheld, so that the cause belongs in the log.
func answerFor(err error) (code int, text string, told bool) {
	var own *Error
	switch {
	case errors.As(err, &own):
		return own.Code, own.Text, true
	case errors.Is(err, ErrChannelName):
		return http.StatusBadRequest, plainText(err), true
	case errors.Is(err, ErrTooManyChannels):
		return http.StatusTooManyRequests, plainText(err), true
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge, plainText(err), true
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "unavailable, try again", false
	}
	return http.StatusInternalServerError, "internal error", false
}

// unavailable marks what a driver returned as ErrUnavailable: a driver returns errors as they are, and all of them mean
// that it did not do its work now. Errors of the core that came by way of the driver keep their meaning.
func unavailable(verb string, err error) error {
	for _, own := range []error{ErrClosed, ErrOffline, ErrUnavailable, ErrChannelName, ErrTooManyChannels} {
		if errors.Is(err, own) {
			return fmt.Errorf("gows: %s: %w", verb, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, verb, err)
}

// refusalFor translates what Auth, Authenticate or online returned into a refusal.
func refusalFor(err error) (r *Refusal, told bool) {
	var (
		own      *Error
		refusal  *Refusal
		panicked *panicError
		network  net.Error
	)
	switch {
	case errors.As(err, &refusal):
		return refusal, true
	case errors.As(err, &own):
		return refuse(own.Code, own.Text), true
	case errors.As(err, &panicked), errors.As(err, &network),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed):
		return refuse(http.StatusServiceUnavailable, "try again"), false
	case isPlainText(err):
		return refuse(http.StatusUnauthorized, err.Error()), true
	}
	return refuse(http.StatusUnauthorized, "unauthorized"), false
}

// refuse pairs an HTTP status with a close code: code is either.
func refuse(code int, reason string) *Refusal {
	switch {
	case code >= 3000 && code <= 4999:
		return newRefusal(statusOf(code), code, reason)
	case code == http.StatusTooManyRequests || code >= 500 && code <= 599:
		return newRefusal(code, CloseInternal, reason)
	case code >= 400 && code < 500:
		return newRefusal(code, CloseRefused, reason)
	}
	return newRefusal(http.StatusInternalServerError, CloseInternal, reason)
}

const retrySeconds = 5

// newRefusal says that nobody may keep the response for the next one who asks, and to those who are to come back when: not
// to all of them the same.
func newRefusal(status, code int, reason string) *Refusal {
	r := &Refusal{Status: status, Code: code, Reason: reason, Header: http.Header{"Cache-Control": {"no-store"}}}
	if code < CloseRefused && (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
		r.Header["Retry-After"] = []string{strconv.Itoa(1 + rand.IntN(retrySeconds))}
	}
	return r
}

func statusOf(closeCode int) int {
	switch closeCode {
	case CloseRestart, CloseInternal, CloseGoingAway:
		return http.StatusServiceUnavailable
	case CloseTooMany:
		return http.StatusTooManyRequests
	case CloseExpired, CloseRefused:
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

// isPlainText reports whether err is nothing but a text made by errors.New or by fmt.Errorf without %w: such a text was
// written for people, while a type or a wrapped cause may carry addresses and queries.
func isPlainText(err error) bool {
	return fmt.Sprintf("%T", err) == plainType
}

var plainType = fmt.Sprintf("%T", errors.New(""))

// plainText is the text of one of the package's own errors without its prefix.
func plainText(err error) string {
	const prefix = "gows: "
	if text := err.Error(); len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return err.Error()
}
