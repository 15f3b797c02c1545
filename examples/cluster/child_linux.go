package main

import "syscall"

// ofThisProcess has a child end with its parent, however that ends, and keeps the terminal's ^C from it: the parent ends
// its children in order.
var ofThisProcess = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
