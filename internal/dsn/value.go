package dsn

import (
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// MaxPeriod is the longest period that [Period] reads. A hundred years leaves room
// to add and double durations without overflow.
const MaxPeriod = 876000 * time.Hour

// Count reads a whole number written in decimal digits alone. The second result
// says what is wrong with text ("is not a whole number"), or is "".
func Count(text string) (int, string) {
	if !isDigits(text) {
		return 0, "is not a whole number"
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, "is out of range"
	}
	return n, ""
}

// Period reads a bare number as seconds, and otherwise a Go duration. The second
// result says what is wrong with text, or is "".
//
// The number is read digit by digit. strconv.ParseFloat would round, and would
// also accept 1e9, 0x1p-2, 1_000, NaN and Inf.
func Period(text string) (time.Duration, string) {
	if strings.HasPrefix(text, "-") {
		return 0, "is negative"
	}
	var d time.Duration
	whole, fraction, point := strings.Cut(text, ".")
	if isDigits(whole) && (!point || isDigits(fraction)) {
		seconds, err := strconv.ParseUint(whole, 10, 63)
		hi, nanos := bits.Mul64(seconds, uint64(time.Second))
		if err != nil || hi != 0 || nanos > uint64(MaxPeriod) {
			return 0, "is too long"
		}
		n, _ := strconv.ParseUint((fraction + "000000000")[:9], 10, 64)
		d = time.Duration(nanos + n)
	} else {
		// ParseDuration takes a sign, and a plus is a space in a URL.
		if strings.HasPrefix(text, "+") {
			return 0, "has a sign"
		}
		var err error
		if d, err = time.ParseDuration(text); err != nil {
			return 0, "is not a duration"
		}
	}
	switch {
	case d > MaxPeriod:
		return 0, "is too long"
	case d == 0 && strings.ContainsAny(text, "123456789"):
		// 0 would turn off a period that the writer meant to be very short.
		return 0, "is shorter than a nanosecond"
	}
	return d, ""
}

// Shown returns a refused value as an error may quote it, or "its value".
//
// A value runs to the next separator. Where a separator was meant to be part of a
// password, or belongs to a syntax unknown here, more than a value is in it. Such a
// text is long or has characters that no value needs, and is not quoted.
func Shown(text string) string {
	const needed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,+-_ µ"
	if len(text) > 40 || strings.Trim(text, needed) != "" {
		return "its value"
	}
	return strconv.Quote(text)
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
