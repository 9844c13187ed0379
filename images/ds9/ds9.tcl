# DS9 tells SAMP clients its host's name, which in a cluster nobody can look up. They are told its address.
if {[info exists env(CANFAR_ADDRESS)]} {
    proc canfar_address {} {return $::env(CANFAR_ADDRESS)}
    namespace ensemble configure info -map \
        [dict replace [namespace ensemble configure info -map] hostname ::canfar_address]
}
set argv0 /usr/share/saods9/library/ds9.tcl
source $argv0
