# SPDX-License-Identifier: GPL-2.0-only
# Reads llvm-objdump -d; fails when a program outside `allowed` holds an atomic with
# fetch (BPF_STX|BPF_ATOMIC whose imm is not plain BPF_ADD/OR/AND/XOR): kernels before
# v5.12 refuse the object for it, even in dead code.
BEGIN {
	n = split(allowed, names, " ")
	for (i = 1; i <= n; i++)
		may[names[i]] = 1
}
/^[0-9a-f]+ <.*>:$/ {
	symbol = $2
	gsub(/[<>:]/, "", symbol)
	if (symbol !~ /^LBB/)
		program = symbol
}
$1 ~ /^[0-9]+:$/ {
	instructions++
	if (($2 == "db" || $2 == "c3") && $6 ~ /[13579bdf]$/ && !(program in may)) {
		print "atomic with fetch in " program ": " $0 > "/dev/stderr"
		bad = 1
	}
}
END {
	if (!instructions) {
		print "no instruction in the disassembly" > "/dev/stderr"
		bad = 1
	}
	exit bad
}
