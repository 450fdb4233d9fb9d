package main

import (
	"fmt"
	"strings"
)

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// prose writes a paragraph in lines of a length that can be read in an editor.
func prose(b *strings.Builder, text string) {
	indent := ""
	if strings.HasPrefix(text, "> ") {
		indent = "> "
	}
	fill(b, text, indent)
	b.WriteString("\n")
}

// item writes an item of a list.
func item(b *strings.Builder, text string) { fill(b, "- "+text, "  ") }

func fill(b *strings.Builder, text, indent string) {
	const longest = 120
	length := 0
	for i, word := range strings.Fields(text) {
		// A character is counted as one, however many bytes it has.
		size := len([]rune(word))
		switch {
		case i == 0:
		case length+1+size > longest:
			b.WriteString("\n" + indent)
			length = len(indent)
		default:
			b.WriteString(" ")
			length++
		}
		b.WriteString(word)
		length += size
	}
	b.WriteString("\n")
}
