# What the Vagrantfile makes of its variables, read by Vagrant's own loader; nothing is started.
#
#   ruby tests/vagrantfile.rb
require 'tmpdir'
ENV['VAGRANT_CHECKPOINT_DISABLE'] = '1'
require 'vagrant'

REPOSITORY = File.expand_path('..', __dir__)
SUM = 'ab' * 32
RELEASE = 'https://example.com/crio-setup-linux-amd64'.freeze

# The configuration with these variables set, or what was said against them.
def load_with(folder, variables)
  ENV.keys.grep(/\ACRIO_SETUP_/).each { |name| ENV.delete(name) }
  variables.each { |name, value| ENV["CRIO_SETUP_#{name}"] = value }
  environment = Vagrant::Environment.new(cwd: REPOSITORY, home_path: folder, local_data_path: File.join(folder, 'data'),
                                         ui_class: Vagrant::UI::Silent)
  environment.vagrantfile.config.vm
rescue Vagrant::Errors::VagrantError => e
  e.message
end

def expect(holds, what)
  return if holds

  warn "tests/vagrantfile.rb: #{what}"
  exit 1
end

# Processors and memory. VirtualBox' are kept as the words of its own command.
def size(config, provider)
  found = config.get_provider_config(provider.to_sym)
  return [found.cpus, found.memory] if provider == 'libvirt'

  words = found.customizations.map { |_, words| words.map(&:to_s) }
  %w[--cpus --memory].map { |flag| words.find { |it| it.include?(flag) }&.last.to_i }
end

def provisioner(config, name)
  config.provisioners.find { |provisioner| provisioner.name.to_s == name }
end

Dir.mktmpdir do |folder|
  # Without its plugin libvirt has no configuration to be asked for.
  providers = %w[virtualbox] + (Vagrant.plugin('2').manager.provider_configs.key?(:libvirt) ? %w[libvirt] : [])
  config = load_with(folder, 'BINARY' => __FILE__)
  expect(config.is_a?(String) == false, config)
  expect(config.box == 'cloud-image/ubuntu-24.04', "the default box is `#{config.box}`")
  providers.each { |name| expect(size(config, name) == [2, 2048], "#{name}: #{size(config, name)}") }
  expect(config.post_up_message.include?('redis-cli -p 6379 ping'), config.post_up_message)
  forwarded = config.networks.find { |kind, options| kind == :forwarded_port && options[:guest] == 6379 }
  expect(forwarded && forwarded[1][:host] == 6379 && forwarded[1][:host_ip] == '127.0.0.1', forwarded.inspect)
  expect(provisioner(config, 'program').config.source == __FILE__, 'the build is not uploaded')
  expect(provisioner(config, 'install').config.args == ['build', '/tmp/crio-setup'], 'the build is not installed')
  expect(provisioner(config, 'redis').run == :always, 'redis does not come back with the machine')

  { 'ubuntu-22.04' => 'cloud-image/ubuntu-22.04', 'debian-12' => 'cloud-image/debian-12',
    'debian-13' => 'cloud-image/debian-13', 'someone/a.box' => 'someone/a.box' }.each do |value, box|
    config = load_with(folder, 'BOX' => value)
    expect(config.box == box, "#{value}: `#{config.box}`")
  end
  config = load_with(folder, 'CPUS' => '4', 'MEMORY' => '8192', 'REDIS_PORT' => '7000',
                             'ARGS' => "--without docker --subnet '10.1.0.0/16'", 'RELEASE' => RELEASE, 'SHA256' => SUM)
  providers.each { |name| expect(size(config, name) == [4, 8192], "#{name}: #{size(config, name)}") }
  expect(config.post_up_message.include?('redis-cli -p 7000 ping'), config.post_up_message)
  wanted = ['release', RELEASE, SUM, '--without', 'docker', '--subnet', '10.1.0.0/16']
  expect(provisioner(config, 'install').config.args == wanted, provisioner(config, 'install').config.args.inspect)
  expect(provisioner(config, 'program').nil?, 'a build is uploaded besides a release')
  config = load_with(folder, 'REDIS' => '', 'ARGS' => '--profile kubernetes')
  expect(provisioner(config, 'redis').nil? && config.post_up_message.to_s.empty?, 'redis without a network')

  # Each mistake is named with its variable and its value, and nothing of Ruby's.
  [
    [{ 'BOX' => 'ubuntu-16.10' }, 'CRIO_SETUP_BOX is `ubuntu-16.10`', 'debian-13'],
    [{ 'BOX' => 'a/b/c' }, 'CRIO_SETUP_BOX is `a/b/c`'],
    [{ 'CPUS' => 'two' }, 'CRIO_SETUP_CPUS is `two`', 'from 1 to 256'],
    [{ 'CPUS' => '0' }, 'CRIO_SETUP_CPUS is `0`'],
    [{ 'MEMORY' => '2G' }, 'CRIO_SETUP_MEMORY is `2G`'],
    [{ 'MEMORY' => '64' }, 'CRIO_SETUP_MEMORY is `64`', 'from 768'],
    [{ 'REDIS_PORT' => '70000' }, 'CRIO_SETUP_REDIS_PORT is `70000`'],
    [{ 'ARGS' => "--subnet '10" }, 'CRIO_SETUP_ARGS'],
    [{ 'BINARY' => '/nowhere' }, 'CRIO_SETUP_BINARY is `/nowhere`'],
    [{ 'RELEASE' => RELEASE }, 'CRIO_SETUP_SHA256'],
    [{ 'RELEASE' => RELEASE, 'SHA256' => 'abc' }, 'CRIO_SETUP_SHA256'],
    [{ 'RELEASE' => 'v1.0', 'SHA256' => SUM }, 'CRIO_SETUP_RELEASE is `v1.0`'],
    [{ 'RELEASE' => RELEASE, 'SHA256' => SUM, 'BINARY' => __FILE__ }, 'which one'],
    [{ 'SHA256' => SUM }, 'without CRIO_SETUP_RELEASE']
  ].each do |variables, *words|
    said = load_with(folder, variables)
    expect(said.is_a?(String), "#{variables} was accepted")
    words.each { |word| expect(said.include?(word), "#{variables}: `#{said}` says nothing of `#{word}`") }
    expect(!said.match?(/Error|Vagrantfile:|line \d/), "#{variables}: `#{said}`")
  end
end
