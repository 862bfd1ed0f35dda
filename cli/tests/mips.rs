//! `ktracer info`, `verify`, `dump` and `events` on a MIPS guest in both byte orders. What the guest does is written down in
//! `timeline/tests/support/mips.rs`.

#[path = "../../timeline/tests/support/mips.rs"]
#[allow(dead_code)]
mod guest;

use std::process::Command;

use guest::{LOOP_POSITION, TURNS, record};
use ktrace_format::header::ByteOrder;
use ktrace_format::header::ByteOrder::{Big, Little};
use serde_json::Value;

fn ktracer(order: ByteOrder, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    record(directory.path(), order);
    let (command, options) = arguments.split_first().unwrap();
    let mut ktracer = Command::new(env!("CARGO_BIN_EXE_ktracer"));
    let output = ktracer.arg(command).arg(directory.path()).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_instruction_is_verified() {
    for order in [Little, Big] {
        let instructions = LOOP_POSITION + 3 * TURNS;
        let report: Value = serde_json::from_str(&ktracer(order, &["verify", "--json"])).unwrap();
        assert_eq!(report["proved"], instructions, "{report}");
        assert!(ktracer(order, &["info"]).contains("mips"));
    }
}

#[test]
fn a_dump_is_as_the_original_printed_it() {
    for order in [Little, Big] {
        let text = ktracer(order, &["dump", "--format", "original", "--from", "12", "--count", "3"]);
        let loaded = if order == Big { "22334455" } else { "88776655" };
        let row = |registers: &str| {
            format!(
                "    zero       at       v0       v1       a0       a1       a2       a3
00000000 00001001 00000000 00001003 00001004 00001005 00001006 00001007
      t0       t1       t2       t3       t4       t5       t6       t7
80002000 00000005 {registers} 0000100e 0000100f
      s0       s1       s2       s3       s4       s5       s6       s7
00001010 00001011 00001012 00001013 00001014 00001015 00001016 00001017
      t8       t9       k0       k1       gp       sp       s8       ra
00001018 00001019 0000101a 0000101b 0000101c 0000101d 0000101e 0000101f
      sr       lo       hi      bad    cause       pc      fsr      fir
00400000 00001021 00001022 00001023"
            )
        };
        let expected = format!(
            "{} ???????? 8000103c 00001046 00001047
0x8000103c:     addiu   $t2, $t2, 0xa

{} ???????? 80001060 00001046 00001047
0x80001060:     mfc0    $t5, $t5, 0
0x80001064:     mtc0    $t5, $t5, 0

",
            row(&format!("00000006 0000100b {loaded} 0000100d")),
            row(&format!("00000010 0000100b {loaded} 0000100d")),
        );
        assert_eq!(text, expected, "{order:?}");
    }
}

#[test]
fn an_exception_in_a_delay_slot_is_told() {
    for order in [Little, Big] {
        let text = ktracer(order, &["dump", "--from", "14", "--count", "4"]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("408d6800  mtc0    $t5, $t5, 0"), "{text}");
        assert!(lines[0].ends_with("cause=00008300"), "{text}");
        assert!(lines[1].contains("08000420  j       0x80001080"), "{text}");
        assert!(lines[2].contains("8d2e0100  lw      $t6, 0x100($t1)"), "{text}");
        assert!(
            lines[3].contains(
                "-- discontinuity: address error on a load or fetch, to 80000180 --  status=00400002"
            ),
            "{text}"
        );
        assert!(lines[4].contains("mfc0    $k0, $t6, 0"), "{text}");

        let line = ktracer(order, &["events", "--json"]);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&event["cause"], &event["raised_by"]), (&Value::from(4), &Value::from(16)), "{line}");
        assert_eq!(event["name"], "address error on a load or fetch");
        let json = ktracer(order, &["dump", "--format", "json", "--from", "4", "--count", "1"]);
        let instruction: Value = serde_json::from_str(&json).unwrap();
        let bytes = if order == Big { "252a0001" } else { "01002a25" };
        assert_eq!(
            (&instruction["bytes"], &instruction["thumb"]),
            (&Value::from(bytes), &Value::from(false))
        );
        assert_eq!(instruction["registers"]["pc"], "0x80001020", "the slot of a taken branch: {json}");
    }
}
