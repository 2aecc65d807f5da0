;; The counter, by hand: adds args.by (default 1) to state.count, emits "incremented", returns the new count.
;; examples/c and examples/assemblyscript have the same; docs/abi.md explains each import.
(module
  (import "panels" "state_get" (func $state_get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "count")
  (data (i32.const 16) "incremented")

  ;; arguments are written at 4096; the module is instantiated anew for every job, so nothing is ever freed
  (func (export "alloc") (param $size i32) (result i32)
    (i32.const 4096))

  ;; the decimal digits at ptr, as an i32
  (func $parse (param $ptr i32) (param $len i32) (result i32)
    (local $value i32) (local $digit i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $len)))
        (local.set $digit (i32.sub (i32.load8_u (local.get $ptr)) (i32.const 48)))
        (br_if $done (i32.gt_u (local.get $digit) (i32.const 9)))
        (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (local.get $value))

  ;; the number after "by": in the arguments, or 1
  (func $by (param $ptr i32) (param $len i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $ptr) (local.get $len)))
    (block $absent
      (loop $next
        (br_if $absent (i32.ge_u (i32.add (local.get $ptr) (i32.const 5)) (local.get $end)))
        ;; "by": is 0x22 0x62 0x79 0x22 0x3a
        (if (i32.and
              (i32.eq (i32.load (local.get $ptr)) (i32.const 0x22796222))
              (i32.eq (i32.load8_u (i32.add (local.get $ptr) (i32.const 4))) (i32.const 0x3a)))
          (then
            (local.set $ptr (i32.add (local.get $ptr) (i32.const 5)))
            (loop $space
              (if (i32.and
                    (i32.lt_u (local.get $ptr) (local.get $end))
                    (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 32)))
                (then
                  (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
                  (br $space))))
            (return (call $parse (local.get $ptr) (i32.sub (local.get $end) (local.get $ptr))))))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
        (br $next)))
    (i32.const 1))

  ;; writes $value in decimal so that it ends before 2048; its start
  (func $format (param $value i32) (result i32)
    (local $ptr i32)
    (local.set $ptr (i32.const 2048))
    (loop $next
      (local.set $ptr (i32.sub (local.get $ptr) (i32.const 1)))
      (i32.store8 (local.get $ptr) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
      (local.set $value (i32.div_u (local.get $value) (i32.const 10)))
      (br_if $next (local.get $value)))
    (local.get $ptr))

  (func (export "handle") (param $args i32) (param $len i32) (result i32)
    (local $size i32) (local $text i32)
    (local.set $size (call $state_get (i32.const 0) (i32.const 5) (i32.const 1024) (i32.const 32)))
    (if (i32.lt_s (local.get $size) (i32.const 0)) (then (local.set $size (i32.const 0))))
    (local.set $text (call $format (i32.add
      (call $parse (i32.const 1024) (local.get $size))
      (call $by (local.get $args) (local.get $len)))))
    (local.set $size (i32.sub (i32.const 2048) (local.get $text)))
    (drop (call $state_set (i32.const 0) (i32.const 5) (local.get $text) (local.get $size)))
    (drop (call $emit (i32.const 16) (i32.const 11) (local.get $text) (local.get $size)))
    (call $result (local.get $text) (local.get $size))
    (i32.const 0)))
