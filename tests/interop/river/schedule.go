package main

import (
	"time"

	"github.com/riverqueue/river"
)

// alignedSchedule is due at whole multiples of an interval, whoever leads since when.
type alignedSchedule struct{ interval time.Duration }

func (s alignedSchedule) Next(after time.Time) time.Time {
	return after.Truncate(s.interval).Add(s.interval)
}

func (periodic periodicParams) schedule() river.PeriodicSchedule {
	if periodic.IsAligned {
		return alignedSchedule{seconds(periodic.Seconds)}
	}
	return river.PeriodicInterval(seconds(periodic.Seconds))
}
