#!/bin/sh
# Two days, an event every four seconds, some of them out of order.
exec "${TIDEMILL:-tidemill}" generate --rate 0 --count 43200 --step 4s --seed 7 --start 1767225600000
