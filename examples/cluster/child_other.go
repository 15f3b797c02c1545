//go:build !linux

package main

import "syscall"

var ofThisProcess *syscall.SysProcAttr
