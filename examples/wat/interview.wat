;; A handler that waits twice: it asks two questions, keeps the answers in the panel's state, and returns the last.
;;
;; `ext_call` begins a call and returns its number. A handler that waits for an answer returns 1, and is then called at
;; `resume`, perhaps much later and in another process. Memory comes along, and so do exported mutable globals; the stack
;; and other globals begin anew. So where it stands has to be in one of the former: here it is the global `step`.
;;
;; Its tool needs the capability `ext:human.ask`.
(module
  (import "panels" "ext_call" (func $ext_call (param i32 i32 i32 i32 i32 i32) (result i64)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (import "panels" "fail" (func $fail (param i32 i32)))

  (memory (export "memory") 1)
  (data (i32.const 0) "human")                    ;; 5 bytes
  (data (i32.const 8) "ask")                      ;; 3 bytes
  (data (i32.const 16) "[\"What is your name?\"]") ;; 22 bytes
  (data (i32.const 48) "[\"And your town?\"]")     ;; 18 bytes
  (data (i32.const 80) "name")                    ;; 4 bytes
  (data (i32.const 88) "town")                    ;; 4 bytes
  (data (i32.const 96) "expected to be allowed to ask") ;; 29 bytes

  (global $step (export "step") (mut i32) (i32.const 0))
  ;; what alloc gives out next; exported, so that what was given out before a suspension is not given out again
  (global $heap (export "heap") (mut i32) (i32.const 1024))

  ;; Room for `size` bytes: for the arguments, and for each answer.
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

  ;; Asks the first question.
  (func (export "handle") (param $args i32) (param $args_len i32) (result i32)
    (call $ask (i32.const 16) (i32.const 22)))

  ;; Gets the answer to a call: its number, 1 if it went well, and the JSON value, or an object that says why it did not.
  (func (export "resume") (param $call i64) (param $ok i32) (param $ptr i32) (param $len i32) (result i32)
    (if (i32.eqz (local.get $ok))
      (then
        (call $fail (local.get $ptr) (local.get $len))
        (return (i32.const -1))))
    (if (i32.eqz (global.get $step))
      (then
        (global.set $step (i32.const 1))
        (drop (call $state_set (i32.const 80) (i32.const 4) (local.get $ptr) (local.get $len)))
        (return (call $ask (i32.const 48) (i32.const 18)))))
    (drop (call $state_set (i32.const 88) (i32.const 4) (local.get $ptr) (local.get $len)))
    (call $result (local.get $ptr) (local.get $len))
    (i32.const 0))

  (func $ask (param $question i32) (param $length i32) (result i32)
    (if (i64.lt_s
          (call $ext_call (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 3)
            (local.get $question) (local.get $length))
          (i64.const 0))
      (then
        (call $fail (i32.const 96) (i32.const 29))
        (return (i32.const -1))))
    (i32.const 1)))
