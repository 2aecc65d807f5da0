#!/usr/bin/perl
# Follows a panel and loses nothing: a third client, of docs/protocol.md alone and of Perl's own modules alone.
#
#     perl follow.pl ws://127.0.0.1:3001 PANEL [TOKEN]
#
# It prints JSON lines: {"connected", "seq"} with new, recovered or resynced; {"event", "payload", "seq"}, each once;
# and {"state", "seq"} whenever it has heard everything up to a version. It ends when the panel or the token does.
use strict;
use warnings;
use Digest::SHA 'sha1_base64';
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 'encode_base64';
use Time::HiRes 'sleep';

my ($host, $port) = ($ARGV[0] // '') =~ m{^ws://([^:/]+):(\d+)/?$} or die "usage: follow.pl ws://HOST:PORT PANEL [TOKEN]\n";
my ($panel, $token) = @ARGV[1, 2];
$panel // die "usage: follow.pl ws://HOST:PORT PANEL [TOKEN]\n";
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my ($epoch, $state, $position, $head, $void);    # what a client remembers of the panel
my (%heard, %handed);                            # events by version: on this connection, and in all
my ($socket, $buffer);
$| = 1;

sub quoted { my $text = shift; utf8::encode($text); $text =~ s/([^\w.~-])/sprintf '%%%02X', ord $1/gea; $text }
sub say_line { print $json->encode({@_}), "\n" }

# -- RFC 6455 --------------------------------------------------------------------------------------
sub open_socket {
    my $path = '/panels/' . quoted($panel) . '/ws';
    $path .= '?since=' . ($void ? 'none' : $position) . '&epoch=' . quoted($epoch) if defined $epoch;
    $socket = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port, Timeout => 5) or die "no connection\n";
    my $key = encode_base64(join('', map { chr int rand 256 } 1 .. 16), '');
    my $bearer = defined $token ? "Authorization: Bearer $token\r\n" : '';
    syswrite $socket, "GET $path HTTP/1.1\r\nHost: $host:$port\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        . "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: $key\r\n$bearer\r\n";
    $buffer = '';
    fill() until $buffer =~ s/^(.*?)\r\n\r\n//s;
    my $answer = $1;
    my ($status) = $answer =~ /^HTTP\/1\.1 (\d+)/ or die "not HTTP\n";
    exit_with("the gateway refused it with $status") if $status =~ /^4/ && $status != 429;
    my $proof = sha1_base64($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=';
    die "refused with $status\n" unless $status == 101 && $answer =~ /^Sec-WebSocket-Accept:\s*\Q$proof\E\s*$/im;
}

sub fill {    # a socket that is silent is asked by PING, and given up when it is silent again
    for my $attempt (1, 2) {
        if (IO::Select->new($socket)->can_read(3)) {
            sysread($socket, $buffer, 65536, length $buffer) or die "the socket ended\n";
            return;
        }
        send_frame(1, '{"type":"PING"}') if $attempt == 1;
    }
    die "the socket is silent\n";
}

sub send_frame {    # a client masks what it sends; ours are short
    my ($opcode, $payload) = @_;
    my $mask = join '', map { chr int rand 256 } 1 .. 4;
    my $masked = $payload ^ substr $mask x (1 + length($payload) / 4), 0, length $payload;
    syswrite $socket, pack('CC', 0x80 | $opcode, 0x80 | length $payload) . $mask . $masked;
}

sub take { my $count = shift; fill() while length $buffer < $count; substr $buffer, 0, $count, '' }

sub hear {    # the next whole message
    my $text = '';
    while (1) {
        my ($first, $second) = unpack 'CC', take(2);
        my $length = $second & 0x7f;
        $length = $length == 126 ? unpack('n', take(2)) : unpack('Q>', take(8)) if $length > 125;
        die "a frame of $length bytes\n" if $length + length $text > 64 << 20;
        my ($opcode, $payload) = ($first & 0x0f, take($length));
        if    ($opcode == 9) { send_frame(10, $payload) }
        elsif ($opcode == 8) { closed(length $payload > 1 ? unpack 'n', $payload : 1005) }
        elsif ($opcode < 3)  { $text .= $payload; return $json->decode($text) if $first & 0x80 }
    }
}

sub closed { my $code = shift; exit_with("closed with $code") if $code =~ /^44/; die "closed with $code\n" }
sub exit_with { warn "follow: $_[0]\n"; exit 1 }

# -- docs/protocol.md: Resuming ----------------------------------------------------------------------
sub connected {
    my $message = shift;
    %heard = ();
    if ($message->{recovered}) { $head = $position }
    else { ($state, $position, $head, %handed) = (@$message{qw(state seq seq)}) }
    say_line(connected => $message->{recovered} ? 'recovered' : defined $epoch ? 'resynced' : 'new', seq => $position);
    ($epoch, $void) = ($message->{epoch}, 0);
    say_line(state => $state, seq => $position);
}

sub happened {
    my $message = shift;
    my $seq = $message->{seq};
    if ($seq > $head) {
        my $follows = $message->{prevSeq} // ($message->{firstSeq} // $seq) - 1;
        $void = $follows > $head and die "something is missing behind $head\n";
        $head = $seq;
    }
    if ($message->{type} eq 'EVENT') {
        my $event = $message->{event};
        if (++$heard{$seq} > ($handed{$seq} // 0)) {
            $handed{$seq} = $heard{$seq};
            say_line(event => $event->{name}, payload => $event->{payload}, seq => $seq);
        }
    } else {
        $_->{op} eq 'set' ? $state->{ $_->{key} } = $_->{value} : delete $state->{ $_->{key} } for @{ $message->{mutations} };
    }
    return if $message->{more};
    $position = $seq;
    delete @handed{ grep { $_ <= $position } keys %handed };
    say_line(state => $state, seq => $position);
}

my $failures = 0;
while (1) {
    eval {
        open_socket();
        while (my $message = hear()) {
            if    ($message->{type} eq 'CONNECTED')       { connected($message); $failures = 0 }
            elsif ($message->{type} =~ /^(PATCH|EVENT)$/) { happened($message) }
        }
    };
    warn "follow: $@";
    sleep rand() * (0.1 * 2**($failures < 6 ? $failures++ : 6));
}
