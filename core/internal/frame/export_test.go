package frame

// Held returns the size of the payload buffers that the parser keeps.
func (p *Parser) Held() int {
	if p.part == nil {
		return 0
	}
	return cap(p.part.data) + cap(p.part.control)
}
