// Package server holds the servers that the benchmark compares: the library on four hosts, the libraries that a user might
// pick instead, and raw, which is the floor and no library. All do the same job on the same routes, each as its
// documentation recommends and with its defaults, but for what the job needs; a comment says so then. It is for Linux.
//
// GET /ws?token=NAME upgrades. A text message is the project's envelope: "subscribe" enters the channel, "message" goes to
// all who are in it, encoded once, and "direct" to the one client whose token stands in "channel". A message with an id is
// answered {"id":ID,"type":"receive"}. Centrifuge speaks its own protocol instead, in JSON; "direct" is a method of its
// RPC, with data {"client":NAME,"message":TEXT}. GET /gc returns memory, GET /mallocs prints how many objects were ever
// allocated.
package server
