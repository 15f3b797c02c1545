// Command fiber is the chat of examples/chat behind fiber.
package main

func main() {}
