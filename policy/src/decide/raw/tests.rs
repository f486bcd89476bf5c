//! What raw and packet sockets send and get, packet by packet.

// Packets, made octet by octet.
mod write;

// What leaves, and as what.
mod forgeries;
mod frames;
mod honest;

// What comes, and whose it is.
mod errors;
mod flows;

// What holds for every packet.
mod laws;
mod rules;
