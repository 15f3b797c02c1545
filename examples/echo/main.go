// Command echo is the chat of examples/chat behind echo.
package main

func main() {}
