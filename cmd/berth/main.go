// Command berth is the program that users call.
package main

func main() {}
