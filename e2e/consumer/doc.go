// Package consumer is tests alone: the modules of this tree are published into a module proxy in a folder, and users get
// them from there with go get, write a program, build it and talk to it. The programs are processes of their own, of which
// the race detector sees nothing: under it the package has no tests.
package consumer
