package accel

import (
	"log/slog"
	"time"
)

// An Event is what a runtime logged.
type Event struct {
	// Time, Level and Message are those of the log record.
	Time    time.Time  `json:"time"`
	Level   slog.Level `json:"level"`
	Message string     `json:"message"`
	// Attrs are the attributes in the order of the record.
	Attrs []EventAttr `json:"attrs,omitempty"`
}

// An EventAttr is an attribute of an Event.
type EventAttr struct {
	// Key is the attribute's name, with those of its groups before it; Value is its
	// value as text.
	Key   string `json:"key"`
	Value string `json:"value"`
}
