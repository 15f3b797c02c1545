package core

// For the tests of pure functions.
var (
	Decode        = decode
	Matches       = matches
	OriginAllowed = originAllowed
)

// Encode is encode for one channel, or for none.
func Encode(payload any, stamp, channel string) ([]byte, error) {
	e, err := encode(payload, stamp)
	if err != nil {
		return nil, err
	}
	return e.in(channel), nil
}

// Response is the 101 of a ticket.
func Response(t *Ticket) []byte { return t.response }
