package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
)

func TestErrorf(t *testing.T) {
	t.Parallel()
	err := core.Errorf(403, "room %q is full: %w, %w", "a", io.EOF, context.Canceled)
	var failed *core.Error
	if !errors.As(fmt.Errorf("hook: %w", err), &failed) || failed.Code != 403 || failed.Text != `room "a" is full: EOF, context canceled` {
		t.Errorf("%+v", failed)
	}
	if want := `gows: 403: room "a" is full: EOF, context canceled`; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if !errors.Is(err, io.EOF) || !errors.Is(err, context.Canceled) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("%w does not wrap as in fmt.Errorf")
	}
	if one := core.Errorf(403, "%w", io.EOF); !errors.Is(one, io.EOF) {
		t.Error("%w does not wrap as in fmt.Errorf")
	}
	if errors.Is(core.Errorf(403, "plain"), io.EOF) {
		t.Error("it wraps what it does not")
	}
	if byHand := (&core.Error{Code: 404, Text: "gone"}); byHand.Error() != "gows: 404: gone" || errors.Unwrap(byHand) != nil {
		t.Error(byHand)
	}
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"gows: closed with code 1005":          &core.CloseError{Code: 1005},
		"gows: closed with code 4000: as told": &core.CloseError{Code: 4000, Reason: "as told"},
		"gows: refused: 403 not for guests":    &core.Refusal{Status: 403, Code: 3500, Reason: "not for guests"},
	} {
		if err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, err := range []error{
		core.ErrClosed, core.ErrOffline, core.ErrTooLarge, core.ErrUnavailable, core.ErrChannelName, core.ErrTooManyChannels,
	} {
		if !strings.HasPrefix(err.Error(), "gows: ") {
			t.Error(err)
		}
	}
}

func TestCloseCodesSayWhetherToReconnect(t *testing.T) {
	t.Parallel()
	for _, again := range []int{core.CloseGoingAway, core.CloseRestart, core.CloseNoPong, core.CloseTooSlow, core.CloseInternal, core.CloseExpired} {
		if again < 3000 || again > 3499 {
			t.Error(again, "means: do not reconnect")
		}
	}
	for _, never := range []int{core.CloseRefused, core.CloseProtocol, core.CloseReplaced, core.CloseKicked, core.CloseTooMany, core.CloseTooManyBad} {
		if never < 3500 || never > 3999 {
			t.Error(never, "means: reconnect")
		}
	}
}
