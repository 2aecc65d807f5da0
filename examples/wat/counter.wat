;; A counter in the text form of WebAssembly: the smallest handler that is worth something.
;;
;; Every handler module exports `memory`, `alloc` (where the host puts the arguments) and an entry, `handle` unless the
;; definition names another. It imports what it needs from the module `panels`; values are JSON text in its memory.
(module
  (import "panels" "state_get" (func $state_get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (import "panels" "fail" (func $fail (param i32 i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "count")                                                      ;; 5 bytes
  (data (i32.const 8) "counted")                                                    ;; 7 bytes
  (data (i32.const 16) "expected count to be a whole number from 0, got something else") ;; 62 bytes
  ;; 128..151: room for a number; 1024 and above: what alloc gives out
  (global $heap (mut i32) (i32.const 1024))

  ;; Room for `size` bytes. A fresh instance runs each job, so nothing is ever freed.
  (func (export "alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $enough
      (loop $more
        (br_if $enough (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable)) ;; out of memory
    (local.get $at))

  ;; Adds one to `count`. The arguments are not looked at.
  (func (export "handle") (param $args i32) (param $args_len i32) (result i32)
    (local $n i64) (local $at i32) (local $len i32) (local $digit i32)
    (local.set $len (call $state_get (i32.const 0) (i32.const 5) (i32.const 128) (i32.const 20)))
    (if (i32.eq (local.get $len) (i32.const -1)) ;; there is no such key: begin at zero
      (then (local.set $len (i32.const 0))))
    (if (i32.gt_u (local.get $len) (i32.const 18)) ;; an error, or more digits than are safe to add one to
      (then (return (call $refuse))))

    ;; decimal digits to a number
    (local.set $at (i32.const 128))
    (block $read
      (loop $next
        (br_if $read (i32.ge_u (local.get $at) (i32.add (i32.const 128) (local.get $len))))
        (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
        (if (i32.gt_u (local.get $digit) (i32.const 9))
          (then (return (call $refuse))))
        (local.set $n
          (i64.add (i64.mul (local.get $n) (i64.const 10)) (i64.extend_i32_u (local.get $digit))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.set $n (i64.add (local.get $n) (i64.const 1)))

    ;; and back, from the last digit to the first
    (local.set $at (i32.const 152))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
      (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
      (br_if $next (i64.ne (local.get $n) (i64.const 0))))
    (local.set $len (i32.sub (i32.const 152) (local.get $at)))

    (drop (call $state_set (i32.const 0) (i32.const 5) (local.get $at) (local.get $len)))
    (drop (call $emit (i32.const 8) (i32.const 7) (local.get $at) (local.get $len)))
    (call $result (local.get $at) (local.get $len))
    (i32.const 0))

  (func $refuse (result i32)
    (call $fail (i32.const 16) (i32.const 62))
    (i32.const -1)))
