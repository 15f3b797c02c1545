//go:build !linux

package core

// boundKernelBuffer does nothing where the kernel cannot be told how much unsent data to hold.
func boundKernelBuffer(any) {}
