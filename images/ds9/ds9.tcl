# DS9 tells SAMP clients its host's name, which in a cluster nobody can look up. They are told its address.
if {[info exists env(CANFAR_ADDRESS)]} {
    proc canfar_address {} {return $::env(CANFAR_ADDRESS)}
    namespace ensemble configure info -map \
        [dict replace [namespace ensemble configure info -map] hostname ::canfar_address]
}
# Tcl's http 2.9 takes an answer of HTTP/1.0 that does not say its length for an empty one, and such are those of
# Java's SAMP clients, unless it asks by HTTP/1.0 as well.
package require http
rename ::http::geturl ::http::canfar_geturl
proc ::http::geturl {url args} {uplevel 1 [list ::http::canfar_geturl $url -protocol 1.0 {*}$args]}
# Debian's DS9 forgets to load what reads VOTables.
package require xml
set argv0 /usr/share/saods9/library/ds9.tcl
source $argv0
