// Command gin is the chat of examples/chat behind gin.
package main

func main() {}
