# The gdb session of `make demo`: to the end of a recording of U-Boot, back to where it moves itself into RAM, and back
# and forth there. scripts/demo.sh has connected gdb, and set $addition to the address of the instruction
# `add lr, lr, r0` in relocate_code's caller, which it found in U-Boot's file.
set pagination off
set confirm off
set width 0

echo \n== At the first recorded instruction: the processor comes out of reset\n
x/i $pc
info registers pc sp cpsr

echo \n== (gdb) continue: to the end of the recording\n
continue
x/i $pc
monitor when

echo \n== U-Boot runs from flash first, then copies itself to the top of RAM and goes on there. Where it prepares this,\n
echo == `add lr, lr, r0` adds the distance to the address at which it will go on. A breakpoint behind that addition:\n
break *($addition + 4)

echo \n== (gdb) reverse-continue: back from the end to where that happened\n
reverse-continue
monitor when
x/i $addition
x/i $pc
info registers r0 r9 sp lr pc
echo == lr is an address in RAM: where U-Boot will go on. Without the distance in r0, it is an address in flash:\n
p/x $lr - $r0

echo \n== (gdb) reverse-stepi: one instruction back, before the addition\n
reverse-stepi
monitor when
x/i $pc
info registers r0 lr pc
set $before = $lr

echo \n== (gdb) stepi: and forward again\n
stepi
info registers r0 lr pc
if $pc != $addition + 4 || $lr != $before + $r0
  echo The registers are not those of an addition\n
  quit 1
end

echo \n== (gdb) reverse-continue: nothing earlier executed this address, so it goes to the start\n
reverse-continue
monitor when
info registers pc
detach
