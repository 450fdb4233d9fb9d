package lifeguard_test

import (
	"syscall"
	"time"
)

// realClock is the machine's clock, which a synctest bubble does not show.
func realClock() time.Duration {
	var tv syscall.Timeval
	if err := syscall.Gettimeofday(&tv); err != nil {
		panic(err)
	}
	return time.Duration(tv.Nano())
}

// takers are functions that differ by their names alone.
var takers = []func(func()){
	taker00, taker01, taker02, taker03, taker04, taker05, taker06, taker07,
	taker08, taker09, taker10, taker11, taker12, taker13, taker14, taker15,
	taker16, taker17, taker18, taker19, taker20, taker21, taker22, taker23,
	taker24, taker25, taker26, taker27, taker28, taker29, taker30, taker31,
	taker32, taker33, taker34, taker35, taker36, taker37, taker38, taker39,
	taker40, taker41, taker42, taker43, taker44, taker45, taker46, taker47,
	taker48, taker49, taker50, taker51, taker52, taker53, taker54, taker55,
	taker56, taker57, taker58, taker59, taker60, taker61, taker62, taker63,
}

func taker00(f func()) { f() }
func taker01(f func()) { f() }
func taker02(f func()) { f() }
func taker03(f func()) { f() }
func taker04(f func()) { f() }
func taker05(f func()) { f() }
func taker06(f func()) { f() }
func taker07(f func()) { f() }
func taker08(f func()) { f() }
func taker09(f func()) { f() }
func taker10(f func()) { f() }
func taker11(f func()) { f() }
func taker12(f func()) { f() }
func taker13(f func()) { f() }
func taker14(f func()) { f() }
func taker15(f func()) { f() }
func taker16(f func()) { f() }
func taker17(f func()) { f() }
func taker18(f func()) { f() }
func taker19(f func()) { f() }
func taker20(f func()) { f() }
func taker21(f func()) { f() }
func taker22(f func()) { f() }
func taker23(f func()) { f() }
func taker24(f func()) { f() }
func taker25(f func()) { f() }
func taker26(f func()) { f() }
func taker27(f func()) { f() }
func taker28(f func()) { f() }
func taker29(f func()) { f() }
func taker30(f func()) { f() }
func taker31(f func()) { f() }
func taker32(f func()) { f() }
func taker33(f func()) { f() }
func taker34(f func()) { f() }
func taker35(f func()) { f() }
func taker36(f func()) { f() }
func taker37(f func()) { f() }
func taker38(f func()) { f() }
func taker39(f func()) { f() }
func taker40(f func()) { f() }
func taker41(f func()) { f() }
func taker42(f func()) { f() }
func taker43(f func()) { f() }
func taker44(f func()) { f() }
func taker45(f func()) { f() }
func taker46(f func()) { f() }
func taker47(f func()) { f() }
func taker48(f func()) { f() }
func taker49(f func()) { f() }
func taker50(f func()) { f() }
func taker51(f func()) { f() }
func taker52(f func()) { f() }
func taker53(f func()) { f() }
func taker54(f func()) { f() }
func taker55(f func()) { f() }
func taker56(f func()) { f() }
func taker57(f func()) { f() }
func taker58(f func()) { f() }
func taker59(f func()) { f() }
func taker60(f func()) { f() }
func taker61(f func()) { f() }
func taker62(f func()) { f() }
func taker63(f func()) { f() }
