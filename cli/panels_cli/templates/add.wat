;; A handler as WebAssembly text: adds args.by (default 1) to state.count, emits "counted", returns the count.
(module
  (import "panels" "state_get" (func $state_get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (import "panels" "fail" (func $fail (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "count")
  (data (i32.const 16) "counted")
  (data (i32.const 64) "expected count to be a whole number of at most 16 characters") ;; 60 bytes
  (data (i32.const 128) "expected to be allowed to set count")                        ;; 35 bytes
  ;; 1024..1039: the old count; up to 2048: the new one; 4096 and above: the arguments
  (global $read_to (mut i32) (i32.const 0)) ;; where $parse stopped

  ;; the module is instantiated anew for every job, so nothing is ever freed
  (func (export "alloc") (param $size i32) (result i32)
    (local $pages i32)
    (local.set $pages ;; that reach to 4096 + $size
      (i32.shr_u (i32.add (local.get $size) (i32.const 69631)) (i32.const 16)))
    (if (i32.gt_u (local.get $pages) (memory.size))
      (then
        (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1))
          (then unreachable)))) ;; out of memory
    (i32.const 4096))

  ;; the whole number that the text between $ptr and $end begins with, 0 where it begins with none
  (func $parse (param $ptr i32) (param $end i32) (result i64)
    (local $value i64) (local $digit i32) (local $negative i32)
    (if (i32.lt_u (local.get $ptr) (local.get $end))
      (then (local.set $negative (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 45))))) ;; -
    (local.set $ptr (i32.add (local.get $ptr) (local.get $negative)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $ptr) (local.get $end)))
        (local.set $digit (i32.sub (i32.load8_u (local.get $ptr)) (i32.const 48)))
        (br_if $done (i32.gt_u (local.get $digit) (i32.const 9)))
        (local.set $value
          (i64.add (i64.mul (local.get $value) (i64.const 10)) (i64.extend_i32_u (local.get $digit))))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
        (br $next)))
    (global.set $read_to (local.get $ptr))
    (select (i64.sub (i64.const 0) (local.get $value)) (local.get $value) (local.get $negative)))

  ;; the number after "by": in the arguments, or 1
  (func $by (param $ptr i32) (param $len i32) (result i64)
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
            (return (call $parse (local.get $ptr) (local.get $end)))))
        (local.set $ptr (i32.add (local.get $ptr) (i32.const 1)))
        (br $next)))
    (i64.const 1))

  ;; writes $value in decimal so that it ends before 2048; its start
  (func $format (param $value i64) (result i32)
    (local $ptr i32) (local $negative i32)
    (local.set $ptr (i32.const 2048))
    (if (i64.lt_s (local.get $value) (i64.const 0))
      (then
        (local.set $negative (i32.const 1))
        (local.set $value (i64.sub (i64.const 0) (local.get $value)))))
    (loop $next
      (local.set $ptr (i32.sub (local.get $ptr) (i32.const 1)))
      (i32.store8 (local.get $ptr)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $value) (i64.const 10)))))
      (local.set $value (i64.div_u (local.get $value) (i64.const 10)))
      (br_if $next (i64.ne (local.get $value) (i64.const 0))))
    (if (local.get $negative)
      (then
        (local.set $ptr (i32.sub (local.get $ptr) (i32.const 1)))
        (i32.store8 (local.get $ptr) (i32.const 45))))
    (local.get $ptr))

  (func (export "handle") (param $args i32) (param $len i32) (result i32)
    (local $count i64)
    (local $size i32) (local $text i32)
    (local.set $size (call $state_get (i32.const 0) (i32.const 5) (i32.const 1024) (i32.const 16)))
    (if (i32.ne (local.get $size) (i32.const -1)) ;; where there is no such key, begin at zero
      (then
        ;; unsigned: what is negative is an error, and as large as what is too long
        (if (i32.gt_u (local.get $size) (i32.const 16)) (then (return (call $refuse))))
        (local.set $size (i32.add (i32.const 1024) (local.get $size)))
        (local.set $count (call $parse (i32.const 1024) (local.get $size)))
        (if (i32.ne (global.get $read_to) (local.get $size)) (then (return (call $refuse))))))
    (local.set $text (call $format
      (i64.add (local.get $count) (call $by (local.get $args) (local.get $len)))))
    (local.set $size (i32.sub (i32.const 2048) (local.get $text)))
    (if (call $state_set (i32.const 0) (i32.const 5) (local.get $text) (local.get $size))
      (then
        (call $fail (i32.const 128) (i32.const 35))
        (return (i32.const 0))))
    (drop (call $emit (i32.const 16) (i32.const 7) (local.get $text) (local.get $size)))
    (call $result (local.get $text) (local.get $size))
    (i32.const 0))

  (func $refuse (result i32)
    (call $fail (i32.const 64) (i32.const 60))
    (i32.const 0)))
