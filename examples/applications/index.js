// The links pass on what scripts/demo gave: which gateway, and who you are.
for (const link of document.querySelectorAll("main a")) link.hash = location.hash;
