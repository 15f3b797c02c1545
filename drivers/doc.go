// Package drivers holds the drivers that join the nodes of a service: memory for one process, Redis for many.
package drivers
