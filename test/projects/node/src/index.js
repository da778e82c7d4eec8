const ms = require('ms');
console.log(ms(2 * 86400000), process.env.NODE_ENV || 'development');
