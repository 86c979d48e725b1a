// hello-go: what a Go program brings along when it becomes a guest: its scheduler, timers and file access.
//
//	hello-go           a greeting, then three goroutines that sleep 10, 20 and 30 ms (with poll_oneoff)
//	hello-go FILE      the same, then how many bytes the file has, and the bytes. Go looks for a relative
//	                   name in the folder that $PWD names
//	hello-go exit      the greeting, then exit code 7
//
// Exit code: 0, 7 as above, or 1 when the file could not be read.
package main

import (
	"fmt"
	"os"
	"time"
)

// sleepTogether starts all at once and prints each when its time has come, so the order is by time.
func sleepTogether(pauses ...time.Duration) {
	done := make(chan time.Duration)
	for _, pause := range pauses {
		go func() {
			time.Sleep(pause)
			done <- pause
		}()
	}
	for range pauses {
		fmt.Println("slept", <-done)
	}
}

func show(path string) {
	content, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello-go:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d bytes\n%s", path, len(content), content)
}

func main() {
	fmt.Println("Hello from Go!")
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		os.Exit(7)
	}
	sleepTogether(30*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond)
	if len(os.Args) > 1 {
		show(os.Args[1])
	}
}
