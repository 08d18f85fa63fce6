#!/bin/sh
# Half an hour around midnight, 50 events a second. From 00:05 to 00:10 each error comes twice.
"${TIDEMILL:-tidemill}" generate --rate 0 --count 90000 --step 20ms --seed 7 --start 1767225000000 |
  awk '{ print } NR > 45000 && NR <= 60000 && /"type":"error"/'
