import { shownTypes, withoutLoading } from './harmless';

describe('what would load or act is left out', () => {
  it.each([
    '<img src="https://elsewhere.example/x.png">',
    '<img src=x onerror="act()">',
    '<video poster="https://elsewhere.example/x.png"></video>',
    '<div style="background: url(https://elsewhere.example/x)">a</div>',
    '<button data-commandlinker-command="mlbench:delete-job">a</button>',
    '<iframe srcdoc="<script>act()</script>"></iframe>',
    '<style>@import "https://elsewhere.example/x.css"</style>',
    '<object data="https://elsewhere.example/x"></object>',
    '<input type="image" src="//elsewhere.example/x">'
  ])('%s', html => {
    expect(withoutLoading(html)).not.toMatch(/elsewhere|act\(\)|commandlinker|onerror/);
  });

  it('pictures that are part of the output stay, and so do links', () => {
    const picture = '<img src="data:image/png;base64,AAAA">';
    expect(withoutLoading(picture)).toBe(picture);
    expect(withoutLoading('<a href="https://example.org">there</a>')).toContain(
      'https://example.org'
    );
  });

  it('a specification that may name addresses is not shown', () => {
    const data = { 'application/vnd.vegalite.v5+json': {}, 'text/plain': 'chart' };
    expect(shownTypes({ output_type: 'display_data', data })).toEqual({
      output_type: 'display_data',
      data: { 'text/plain': 'chart' }
    });
  });
});
