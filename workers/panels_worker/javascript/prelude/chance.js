let clock;
const now = () => (clock === undefined ? (clock = +hostNow()) : clock);
let seeded = false, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
// sfc32: small, fast, and the same for the same job; seeded at first use, as few handlers want it
const random = () => {
  if (!seeded) {
    const seed = parse(hostSeed());
    seeded = true, s0 = seed[0], s1 = seed[1], s2 = seed[2], s3 = 1;
    for (let round = 0; round < 12; round++) random();
  }
  s0 >>>= 0; s1 >>>= 0; s2 >>>= 0; s3 >>>= 0;
  let mixed = (s0 + s1) | 0;
  s0 = s1 ^ (s1 >>> 9);
  s1 = (s2 + (s2 << 3)) | 0;
  s2 = (s2 << 21) | (s2 >>> 11);
  s3 = (s3 + 1) | 0;
  mixed = (mixed + s3) | 0;
  s2 = (s2 + mixed) | 0;
  return mixed >>> 0;
};
defineProperty(Math, "random", {
  value: () => ((random() >>> 5) * 67108864 + (random() >>> 6)) / 9007199254740992,
  writable: true,
  configurable: true,
});

// Ids in the form of a ULID: ten digits of the job's time in milliseconds, and sixteen by chance, which the next
// id of the job continues by one.
const ID_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
let lastId;
const $id = () => {
  if (lastId === undefined) {
    let time = now(), head = "";
    time -= time % 1;
    for (let index = 0; index < 10; index++) {
      const digit = time % 32;
      head = ID_DIGITS[digit] + head;
      time = (time - digit) / 32;
    }
    // the first digit has a bit to spare, so that counting on never passes the end
    let tail = ID_DIGITS[random() >>> 28];
    for (let index = 1; index < 16; index++) tail += ID_DIGITS[random() >>> 27];
    return (lastId = head + tail);
  }
  let at = 25, end = "";
  while (lastId[at] === "Z") at--, end += "0";
  let digit = 0;
  while (ID_DIGITS[digit] !== lastId[at]) digit++;
  return (lastId = substring(lastId, 0, at) + ID_DIGITS[digit + 1] + end);
};
