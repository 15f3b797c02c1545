// Package page holds the files of the chat's page, so that every example can serve the same one.
package page

import "embed"

// Files are index.html and what it loads.
//
//go:embed *.html *.css *.js *.svg
var Files embed.FS
