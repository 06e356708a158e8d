# Commands for gdb on a time machine: source this file, then `target remote` what `ftvm history debug` prints.
# The `monitor` commands alone would leave gdb with the registers of the place before.

define ftvm-show
  maintenance flush register-cache
  maintenance flush dcache
  frame
end
document ftvm-show
Forget what gdb keeps of the machine, and show where it stands.
end

define ftvm-goto
  monitor goto $arg0
  ftvm-show
end
document ftvm-goto
ftvm-goto N: go to right before instruction N of the recorded past.
end

define ftvm-where
  monitor where
end
document ftvm-where
Tell at which instruction of the recorded past the machine stands.
end

define ftvm-last-write
  eval "monitor last-write %lu %lu", (unsigned long)&($arg0), (unsigned long)sizeof($arg0)
  ftvm-show
end
document ftvm-last-write
ftvm-last-write VARIABLE: go to right before the last write of a variable.
end
